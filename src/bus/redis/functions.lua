#!lua name=campanile
-- Durable publishing: a message gets the next number of its channel, is kept in the channel's stream and published, in one step.
-- docs/durable.md says how it is called and what it answers; src/bus/redis/library.rs loads it. Whoever changes what a function takes,
-- answers or writes gives it a new name (…_2), and campanile_version a new number.
--
-- Invariants. What may be refused is refused before anything is written: Redis takes nothing back when a function fails. An entry's id is
-- EPOCH-NUMBER, of a packed one EPOCH and the number of its last message, and no two messages of a channel ever have the same. All numbers stay
-- below 2^53, where a double is still exact.
--
-- Each call into Redis costs about a microsecond, and the usual publish makes six. What is left is texts made of numbers and numbers of texts,
-- a tenth to a fifth of a microsecond each: what the last call has read or written is remembered, text and number together.

-- While a library is loaded there are no globals but `redis`; strings have their methods all the same.
local format, find, match, gsub, sub = ('').format, ('').find, ('').match, ('').gsub, ('').sub

local EXACT_MAX = 9007199254740991
local MONTH_MS = 30 * 24 * 3600 * 1000
local MINUTE_MS = 60 * 1000
-- Of history and of the memory for idempotency keys.
local TIME_MS_MAX = 10 * 365 * 24 * 3600 * 1000
local COUNT_MAX = 1000 * 1000 * 1000
local PAYLOADS_MAX = 10 * 1000
-- Messages of one call that an entry holds, and bytes of them; what is larger has an entry of its own. Whoever reads for a few reads all of an entry.
local PACKED_MAX = 64
local PACKED_BYTES_MAX = 16 * 1024
-- Arguments before the payloads.
local FIRST_PAYLOAD = 6
-- Redis drops whole nodes of a stream (4 kB), so what is beyond COUNT need not be looked for with each small message.
local TRIM_NUMBERS = 16
local TRIM_BYTES = 256
-- Numbers between two looks at what is too old.
local AGE_CHECK_NUMBERS = 64

-- The number that a text is, in the spelling that Redis has; nil: it is none, or one that is not exact.
local function whole(text)
  local number = text and find(text, '^%d+$') and tonumber(text)
  return number and number <= EXACT_MAX and number or nil
end

-- Of a whole number. `%d` is quicker, and right where C's long has 64 bits.
local WHOLE = format('%d', EXACT_MAX) == format('%.0f', EXACT_MAX) and '%d' or '%.0f'
local ID = WHOLE .. '-' .. WHOLE

-- The last time that was asked for, and its seconds.
local last_ms, last_ms_text, last_seconds, last_seconds_text = 0, '0', 0, '0'

-- As a number and as a text.
local function now()
  local time = redis.call('TIME')
  if time[1] ~= last_seconds_text then
    last_seconds, last_seconds_text = tonumber(time[1]), time[1]
  end
  local ms = last_seconds * 1000 + (time[2] - time[2] % 1000) / 1000
  if ms ~= last_ms then
    last_ms, last_ms_text = ms, format(WHOLE, ms)
  end
  return ms, last_ms_text
end

-- Names.

-- What belongs to a stream's key, for those used last: finding it out costs more than the rest of the Lua.
-- Also what the meta hash last held, as texts and as numbers: `e` and `epoch`, `n` and `last`, `t`, `x` and `expires`; and the epoch last `begun`.
local places, places_count = {}, 0
-- Lua's garbage collector passes by all of them: a thousand cost each call 1.5 us, four thousand 3, and not to know one costs 4.
local PLACES_MAX = 1024
local PLACE_BYTES_MAX = 1024

local CODES = { ['25'] = '%', ['7B'] = '{', ['7D'] = '}' }
local CODED = { ['%'] = '%25', ['{'] = '%7B', ['}'] = '%7D' }

-- Nil: it is no key of a stream, PREFIX{CHANNEL}:stream with the channel's name encoded.
local function new_place(stream)
  local prefix, encoded = match(stream, '^([^{]*){([^{}]+)}:stream$')
  if not prefix then return nil end
  local name = gsub(encoded, '%%(%x%x)', CODES)
  if gsub(name, '[%%{}]', CODED) ~= encoded then return nil end
  local sharded = prefix .. '{' .. encoded .. '}'
  local place = { meta = sharded .. ':meta', once = sharded .. ':once:', sharded = sharded, classic = prefix .. name, bare = name }
  -- No channel of a server has a name so long: whoever makes such up fills no memory.
  if #stream <= PLACE_BYTES_MAX then
    if places_count >= PLACES_MAX then places, places_count = {}, 0 end
    places[stream] = place
    places_count = places_count + 1
  end
  return place
end

-- Keys under names that no server reads, or in the wrong order, would take messages and never give them out: nil and an error.
local function place_of(keys, keys_max)
  local place = places[keys[1]]
  if place and keys[2] == place.meta and #keys == 2 then return place end
  if #keys < 2 or #keys > keys_max then
    return nil, redis.error_reply('BADKEYS it takes the keys STREAM META' .. (keys_max == 3 and ' [ONCE]' or '') .. '; these are ' .. #keys)
  end
  place = place or new_place(keys[1])
  if not place then
    return nil, redis.error_reply('BADKEYS the first key is PREFIX{CHANNEL}:stream, with %, { and } in the channel as %25, %7B and %7D')
  end
  if keys[2] ~= place.meta then
    return nil, redis.error_reply('BADKEYS the second key is that of the stream with :meta in place of :stream')
  end
  if keys[3] and sub(keys[3], 1, #place.once) ~= place.once then
    return nil, redis.error_reply('BADKEYS the third key is that of the stream with :once:KEY in place of :stream')
  end
  return place
end

local function wrong_channel(place, command, channel)
  if command == 'PUBLISH' then
    if channel ~= place.classic and channel ~= place.bare then
      return redis.error_reply('BADCHANNEL it is not the channel of these keys: with PUBLISH that is PREFIX and CHANNEL, or CHANNEL alone')
    end
  elseif command ~= 'SPUBLISH' then
    return redis.error_reply('BADARGS the first argument is PUBLISH or SPUBLISH')
  elseif channel ~= place.sharded then
    -- In a Cluster it would be refused as one of another slot, when the message is written already.
    return redis.error_reply('BADCHANNEL it is not the channel of these keys: with SPUBLISH that is PREFIX{CHANNEL}, encoded as in the keys')
  end
end

-- Nil: the caller may.
local function forbidden(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    return redis.error_reply('NOPERM this user may not ' .. command .. ' here, which publishing needs; nothing was written')
  end
end

-- Epochs.

local function remember(place, epoch, epoch_text, last, last_text, time)
  place.e, place.epoch, place.n, place.last, place.t = epoch_text, epoch, last_text, last, time
end

-- The meta hash as it stands: its epoch, last number and when the keys expire. Without the former two, it holds nothing to go on from.
-- What stands beside an epoch and number that we have written ourselves, we have written with them.
local function state_of(place)
  local state = redis.call('HMGET', place.meta, 'e', 'n')
  if state[1] == place.e and state[2] == place.n then return place.epoch, place.last, place.expires end
  state = redis.call('HMGET', place.meta, 'e', 'n', 't', 'x')
  local epoch, last, expires = whole(state[1]), whole(state[2]), whole(state[4])
  if not epoch or epoch == 0 then return nil, nil, expires end
  -- A hash that somebody has put back, or written to, would have numbers given twice.
  if not last or (epoch == place.epoch and last < place.last) then return epoch, nil, expires end
  remember(place, epoch, state[1], last, state[2], state[3])
  place.x, place.expires = state[4], expires
  return epoch, last, expires
end

-- An epoch larger than the last one, than whatever stands in the stream, and than any that is remembered: keys that were deleted with their channel
-- may come back within the millisecond. Also finds out whether all that follows will be allowed. Nil and an error: there can be none.
local function larger_epoch(stream, place, floor, now_ms)
  local meta = place.meta
  local refusal = forbidden('HSET', meta, 'e', '1') or forbidden('XADD', stream, '*', 'd', '') or forbidden('PEXPIREAT', meta, '1')
  if refusal then return nil, refusal end
  for _, remembered in ipairs({ place.epoch or 0, place.begun or 0 }) do
    -- Further ahead than that, somebody has put it there, and perhaps deleted it again.
    if remembered <= now_ms + MONTH_MS then floor = math.max(floor, remembered) end
  end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    if not find(info.err, 'no such key', 1, true) then return nil, info end
  else
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then floor = math.max(floor, tonumber(match(info[at + 1], '^%d+'))) end
    end
  end
  local epoch = math.max(now_ms, floor + 1)
  if epoch > EXACT_MAX then
    return nil, redis.error_reply('BADSTREAM its last id or epoch is beyond all that can follow; delete ' .. stream .. ' and ' .. meta)
  end
  place.begun = epoch
  return epoch
end

local function begin_epoch(stream, place, floor, expires, now_ms)
  local epoch, refusal = larger_epoch(stream, place, floor, now_ms)
  if not epoch then return nil, refusal end
  -- The stream keeps the time it has, if there is one.
  expires = math.max(expires or 0, now_ms)
  local epoch_text, time, expires_text = format(WHOLE, epoch), format(WHOLE, now_ms), format(WHOLE, expires)
  redis.call('HSET', place.meta, 'e', epoch_text, 'n', '0', 't', time, 'x', expires_text)
  redis.call('PEXPIREAT', place.meta, format(WHOLE, expires + MONTH_MS))
  remember(place, epoch, epoch_text, 0, '0', time)
  place.x, place.expires = expires_text, expires
  return epoch
end

-- Publishing.

-- Drops what is older, by a search among the numbers of this epoch: an entry can only be read whole, so few are.
-- What an earlier epoch has left goes with the first message of this one.
local function trim_by_age(stream, epoch, last, oldest_ms)
  -- Number (false: of another epoch) and age of the first entry from there on; nil: there is none. One without a time is not ours.
  local function look(from)
    local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', '1')[1]
    if not entry then return nil end
    local of_epoch, number = match(entry[1], '^(%d+)-(%d+)$')
    local fields, time = entry[2], nil
    for at = 1, #fields, 2 do
      if fields[at] == 't' then time = whole(fields[at + 1]) end
    end
    return tonumber(of_epoch) == epoch and tonumber(number), not time or time < oldest_ms
  end
  local old, is_old = look('-')
  if old == false and is_old then
    old, is_old = look(format(ID, epoch, 0))
  end
  if not old or not is_old then return end
  local young, step = last + 1, AGE_CHECK_NUMBERS
  while young - old > 1 do
    local middle = old + math.min(step, math.floor((young - old) / 2))
    local number, is_old_too = look(format(ID, epoch, middle))
    if number and is_old_too then
      old, step = number, step * 2
    else
      young = middle
    end
  end
  redis.call('XTRIM', stream, 'MINID', format(ID, epoch, young))
end

-- The texts of lengths that have come before: to make one costs as much as to take an argument in.
local length_texts = {}
local LENGTH_TEXTS_MAX = 1024

local function length_text(length)
  local text = length_texts[length]
  if not text then
    text = format(WHOLE, length)
    if length < LENGTH_TEXTS_MAX then length_texts[length] = text end
  end
  return text
end

-- For as many lengths as an entry holds: a table that grows is made anew again and again.
local few_lengths = {}

-- Lengths and payloads of some arguments in a row.
local function joined(args, from, to)
  local count = to - from + 1
  local lengths = count <= PACKED_MAX and few_lengths or {}
  for at = 1, count do lengths[at] = length_text(#args[from + at - 1]) end
  return table.concat(lengths, ' ', 1, count), table.concat(args, '', from, to)
end

-- The last of those arguments that go into one entry with this one.
local function pack_end(args, from)
  local to, bytes = from, #args[from]
  local to_max = math.min(#args, from + PACKED_MAX - 1)
  while to < to_max do
    bytes = bytes + #args[to + 1]
    if bytes > PACKED_BYTES_MAX then break end
    to = to + 1
  end
  return to
end

-- One message (`d`), or several in a row: their lengths (`l`) and payloads (`p`). Trims what is beyond, if it is said how.
local function add(call, stream, trim_by, trim_to, id, time, payload, lengths)
  if lengths then
    if trim_by then return call('XADD', stream, trim_by, '~', trim_to, id, 'l', lengths, 'p', payload, 't', time) end
    return call('XADD', stream, id, 'l', lengths, 'p', payload, 't', time)
  end
  if trim_by then return call('XADD', stream, trim_by, '~', trim_to, id, 'd', payload, 't', time) end
  return call('XADD', stream, id, 'd', payload, 't', time)
end

-- The last COUNT, AGE_MS and WINDOW_MS that were found good: most calls have the same. COUNT and AGE_MS as numbers too.
local last_count, last_age, last_window, last_count_number, last_age_ms

-- Appends and publishes; returns the last number. Nil and an error: Redis has refused the first entry, and everything is as it was.
-- `expires`: when the keys are to expire, nil if that need not be written.
local function append(stream, place, args, epoch, last, expires, time, is_packed)
  local meta, count = place.meta, #args - FIRST_PAYLOAD + 1
  local final = last + count
  local epoch_text = epoch == place.epoch and place.e or format(WHOLE, epoch)
  local first_text = format(WHOLE, last + 1)
  local final_text = count == 1 and first_text or format(WHOLE, final)
  -- First of all, as it is what there may not be enough memory for: the byte that no text and no MessagePack begins with, version, epoch, first number, time,
  -- the length of each payload, then the payloads.
  local lengths, payloads
  if count == 1 then
    payloads = args[FIRST_PAYLOAD]
    lengths = format(WHOLE, #payloads)
  else
    lengths, payloads = joined(args, FIRST_PAYLOAD, #args)
  end
  local message = '\1931 ' .. epoch_text .. ' ' .. first_text .. ' ' .. time .. ' ' .. lengths .. '\n' .. payloads
  local expires_text = expires and format(WHOLE, expires)

  if expires then
    redis.call('HSET', meta, 'e', epoch_text, 'n', final_text, 't', time, 'x', expires_text)
  else
    redis.call('HSET', meta, 'n', final_text, 't', time)
  end
  -- By number, not by count of entries: those that hold several count as what they hold.
  local trim_by, trim_to
  if last == 0 then
    -- What earlier epochs have left is not in the way of this one's numbers.
    trim_by, trim_to = 'MAXLEN', args[3]
  elseif final > last_count_number and (final % TRIM_NUMBERS < count or #payloads >= TRIM_BYTES) then
    trim_by, trim_to = 'MINID', epoch_text .. '-' .. format(WHOLE, final - last_count_number + 1)
  end
  local is_one_entry = is_packed and count <= PACKED_MAX and #payloads <= PACKED_BYTES_MAX
  local call, from = redis.pcall, FIRST_PAYLOAD
  while from <= #args do
    local to = is_one_entry and #args or is_packed and from < #args and pack_end(args, from) or from
    local number = to == #args and final_text or format(WHOLE, last + (to - FIRST_PAYLOAD + 1))
    local of_entry, payload = nil, args[from]
    if to - from + 1 == count then
      payload, of_entry = payloads, count > 1 and lengths
    elseif to > from then
      of_entry, payload = joined(args, from, to)
    end
    local id = add(call, stream, to == #args and trim_by, trim_to, epoch_text .. '-' .. number, time, payload, of_entry)
    if type(id) ~= 'string' then
      redis.call('HSET', meta, 'e', epoch_text, 'n', format(WHOLE, last), 't', place.t or '0', 'x', place.x or '0')
      return nil, id
    end
    -- Behind the first nothing can be refused any more.
    call, from = redis.call, to + 1
  end
  if expires then
    redis.call('PEXPIREAT', stream, expires_text)
    redis.call('PEXPIREAT', meta, format(WHOLE, expires + MONTH_MS))
    place.x, place.expires = expires_text, expires
  end
  redis.call(args[1], args[2], message)
  remember(place, epoch, epoch_text, final, final_text, time)
  return final
end

-- Nil: they can be.
local function wrong_numbers(count, age, window, has_once)
  local count_number, age_ms, window_ms = whole(count), whole(age), whole(window)
  -- It is handed on as it is, and Redis takes none that begins with a 0.
  if not count_number or find(count, '^0') or count_number > COUNT_MAX then
    return redis.error_reply('BADARGS COUNT is how many messages are kept, 1 to ' .. format(WHOLE, COUNT_MAX))
  end
  if not age_ms or age_ms > TIME_MS_MAX then
    return redis.error_reply('BADARGS AGE_MS is how long they are kept, 0 (30 days) to ' .. format(WHOLE, TIME_MS_MAX))
  end
  if not window_ms or window_ms > TIME_MS_MAX or (has_once and window_ms == 0) then
    return redis.error_reply('BADARGS WINDOW_MS is how long ONCE is kept, 1 to ' .. format(WHOLE, TIME_MS_MAX) .. '; 0 without ONCE')
  end
  last_count, last_age, last_window = count, age, not has_once and window
  last_count_number = count_number
  last_age_ms = age_ms == 0 and MONTH_MS or age_ms
end

local function publish(keys, args, is_packed)
  local stream, once = keys[1], keys[3]
  local place, refusal = place_of(keys, 3)
  if not place then return refusal end
  local payloads = #args - FIRST_PAYLOAD + 1
  if payloads < 1 or payloads > PAYLOADS_MAX then
    return redis.error_reply(
      'BADARGS it takes COMMAND CHANNEL COUNT AGE_MS WINDOW_MS PAYLOAD [PAYLOAD ...], at most ' .. PAYLOADS_MAX .. ' payloads; these are '
        .. #args .. ' arguments'
    )
  end
  local command, channel = args[1], args[2]
  if args[3] ~= last_count or args[4] ~= last_age or args[5] ~= last_window or once then
    refusal = wrong_numbers(args[3], args[4], args[5], once)
    if refusal then return refusal end
  end
  local age_ms = last_age_ms
  if command ~= 'PUBLISH' or channel ~= place.classic then
    refusal = wrong_channel(place, command, channel)
    if refusal then return refusal end
  end

  if once then
    local given = redis.call('GET', once)
    if given then
      local epoch, first, final = match(given, '^(%d+) (%d+) (%d+)$')
      if not epoch then return redis.error_reply('BADONCE the idempotency key holds something else: ' .. once) end
      return { tonumber(epoch), tonumber(first), tonumber(final), 1 }
    end
    refusal = forbidden('SET', once, '', 'PX', '1')
    if refusal then return refusal end
  end
  refusal = forbidden(command, channel, '')
  if refusal then return refusal end

  local now_ms, time = now()
  local epoch, last, expires = state_of(place)
  local is_new = not last or last > EXACT_MAX - payloads
  if is_new then
    epoch, refusal = larger_epoch(stream, place, epoch or 0, now_ms)
    if not epoch then return refusal end
    last = 0
  end
  local final = last + payloads
  local is_looked_at = final % AGE_CHECK_NUMBERS < payloads
  if is_looked_at then
    refusal = forbidden('XRANGE', stream, '-', '+') or forbidden('XTRIM', stream, 'MINID', '1')
    if refusal then return refusal end
  end
  -- At each look too, for a stream that was deleted: the next one of that name has no time to expire at.
  local expires_next = now_ms + age_ms + math.max(age_ms, MINUTE_MS)
  if is_new or is_looked_at or not expires or expires < now_ms + age_ms or expires > expires_next then
    refusal = forbidden('PEXPIREAT', stream, '1')
    if refusal then return refusal end
    expires = expires_next
  else
    expires = nil
  end

  final, refusal = append(stream, place, args, epoch, last, expires, time, is_packed)
  if not final then
    if is_new then return refusal end
    -- Another type or a missing right is told by this. Else what stands in the way is a larger id.
    epoch, refusal = larger_epoch(stream, place, epoch, now_ms)
    if not epoch then return refusal end
    final, refusal = append(stream, place, args, epoch, 0, expires_next, time, is_packed)
    if not final then return refusal end
  end
  if is_looked_at then trim_by_age(stream, epoch, final, now_ms - age_ms) end
  local first = final - (payloads - 1)
  if once then redis.call('SET', once, format('%s %s %s', place.e, format(WHOLE, first), place.n), 'PX', args[5]) end
  return { epoch, first, final, 0 }
end

-- Where a channel stands; begins its first epoch if it has none.
local function open(keys)
  local place, refusal = place_of(keys, 2)
  if not place then return refusal end
  local now_ms = now()
  local epoch, last, expires = state_of(place)
  if not last then
    epoch, refusal = begin_epoch(keys[1], place, epoch or 0, expires, now_ms)
    if not epoch then return refusal end
    return { epoch, 0, now_ms }
  end
  -- Somebody still comes for it, though nobody publishes.
  if not expires or expires < now_ms - MONTH_MS / 2 then
    refusal = forbidden('PEXPIREAT', place.meta, '1')
    if refusal then return refusal end
    redis.call('HSET', place.meta, 'x', format(WHOLE, now_ms))
    redis.call('PEXPIREAT', place.meta, format(WHOLE, now_ms + MONTH_MS))
    place.x, place.expires = nil, now_ms
  end
  return { epoch, last, whole(place.t) or 0 }
end

-- Begins a larger epoch if the current one is the one expected; answers which it is then.
local function renew(keys, args)
  local place, refusal = place_of(keys, 2)
  if not place then return refusal end
  local expected = whole(args[1])
  if #args ~= 1 or not expected or expected == 0 then
    return redis.error_reply('BADARGS it takes EXPECTED_EPOCH')
  end
  local now_ms = now()
  local epoch, last, expires = state_of(place)
  if last and epoch ~= expected then return { epoch, last } end
  epoch, refusal = begin_epoch(keys[1], place, math.max(expected, epoch or 0), expires, now_ms)
  if not epoch then return refusal end
  return { epoch, 0 }
end

-- An entry for each message: whoever reads the stream may know no other.
redis.register_function('campanile_publish_1', function(keys, args) return publish(keys, args, false) end)
-- Those of one call together in an entry.
redis.register_function('campanile_publish_2', function(keys, args) return publish(keys, args, true) end)
redis.register_function('campanile_open_1', open)
redis.register_function('campanile_renew_1', renew)
redis.register_function {
  function_name = 'campanile_version',
  callback = function() return 2 end,
  flags = { 'no-writes', 'allow-stale' },
}

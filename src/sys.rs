//! The only unsafe code: system calls that no safe crate offers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC: one clock for every thread.
#[inline]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// As whom this process acts.
pub fn user_id() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// An eventfd that wakes a thread asleep in epoll. Registered edge-triggered, it need never be read: each write is an edge.
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    pub fn new() -> io::Result<WakeFd> {
        // SAFETY: eventfd takes no pointers; a valid descriptor is owned by nobody yet.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: the descriptor was just made and is open.
        Ok(WakeFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: the buffer is the 8 bytes that an eventfd takes. A counter that is full (after 2^64 wakes) reports an error and is
        // a wake already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

impl AsRawFd for WakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A timerfd on the clock of [`monotonic_ns`]. Registered edge-triggered, it need never be read: each time that it goes off is an edge.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl TimerFd {
    pub fn new() -> io::Result<TimerFd> {
        // SAFETY: timerfd_create takes no pointers; a valid descriptor is owned by nobody yet.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: the descriptor was just made and is open.
        Ok(TimerFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// It goes off once, at this time, whatever it was set to before; at once if that is over.
    pub fn set(&self, at_ns: u64) -> io::Result<()> {
        // A time of 0 would switch it off.
        let at_ns = at_ns.max(1);
        let at = libc::timespec { tv_sec: (at_ns / 1_000_000_000) as libc::time_t, tv_nsec: (at_ns % 1_000_000_000) as libc::c_long };
        let times = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        // SAFETY: `times` is a valid itimerspec that the kernel only reads; what was set before is not asked for.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &times, std::ptr::null_mut()) })
    }
}

impl AsRawFd for TimerFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The limit on open descriptors of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    pub soft: u64,
    pub hard: u64,
}

/// Raises the soft limit on descriptors to the hard one and returns what holds now.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the kernel to fill.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid rlimit that the kernel only reads.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) })?;
        limit = raised;
    }
    Ok(DescriptorLimit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// A system call that this process may not make, or that the kernel does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub call: &'static str,
    pub error: Option<i32>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = self.call;
        let Some(number) = self.error else {
            return write!(out, "a seccomp filter (a container's profile, SystemCallFilter= of the unit) kills the process for {call}");
        };
        let error = io::Error::from_raw_os_error(number);
        match (number, call) {
            (libc::EPERM | libc::EACCES, _) => {
                write!(out, "a seccomp filter (a container's profile, SystemCallFilter= of the unit) forbids {call} ({error})")
            }
            (libc::ENOSYS, "close_range") => {
                write!(out, "{call} is not to be had ({error}): the kernel is older than 5.9, or a seccomp filter says so")
            }
            (libc::ENOSYS, _) => write!(out, "{call} is not to be had ({error}): the kernel lacks it, or a seccomp filter says so"),
            _ => write!(out, "{call} fails ({error})"),
        }
    }
}

/// What keeps threads of this process from having descriptor tables of their own ([`unshare_descriptors`]), if anything does. Found out
/// by a child process, which a filter that kills may kill.
pub fn private_descriptors_refused() -> Option<Refusal> {
    match ask_child() {
        Ok(answer) => match answer[..] {
            [] => Some(Refusal { call: "unshare or close_range", error: None }),
            [_, 0] => None,
            [call, error, ..] => Some(Refusal { call: if call == 0 { "unshare" } else { "close_range" }, error: Some(i32::from(error)) }),
            [_] => unreachable!("both bytes are written at once"),
        },
        Err(error) => Some(Refusal { call: "fork", error: error.raw_os_error() }),
    }
}

/// The number of the call that was made last (0: unshare, 1: close_range) and its error, 0 for none; nothing from a child that was killed.
fn ask_child() -> io::Result<Vec<u8>> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the child makes system calls alone and leaves without running anything else of this process.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let mut answer = [0, error_of(libc::unshare(libc::CLONE_FILES))];
            if answer[1] == 0 {
                // A range without any descriptor, or the pipe would be closed too.
                answer = [1, error_of(libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) as i32)];
            }
            libc::write(writer.as_raw_fd(), answer.as_ptr().cast(), answer.len());
            libc::_exit(0);
        }
        child
    };
    check(child)?;
    drop(writer);
    let mut answer = Vec::new();
    io::Read::read_to_end(&mut reader, &mut answer)?;
    // SAFETY: the child is ours. What it returned is known; where SIGCHLD is ignored there is nothing to wait for.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1 && last_error() == libc::EINTR {}
    Ok(answer)
}

/// Linux knows no error number beyond 133.
fn error_of(result: i32) -> u8 {
    if result == -1 { last_error() as u8 } else { 0 }
}

fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Gives the calling thread a descriptor table of its own, holding only standard input, output and error and what `keep` lists.
/// From here on a descriptor number of another thread means nothing on this one. What `take` lists is kept as well and given back as
/// owned by this thread; whoever owned those numbers before goes on owning them in the old table.
pub fn unshare_descriptors(keep: &[RawFd], take: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    // SAFETY: unshare(CLONE_FILES) changes nothing but this thread's descriptor table; other threads keep theirs.
    check(unsafe { libc::unshare(libc::CLONE_FILES) }).map_err(|error| refused("unshare", &error))?;
    let mut keep: Vec<u32> = keep.iter().chain(take).map(|&fd| fd as u32).chain([0, 1, 2]).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if first < fd {
            let last = if fd == u32::MAX { u32::MAX } else { fd - 1 };
            // SAFETY: the table is this thread's own copy: the objects that own these numbers live on other threads, in their table.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } as i32)
                .map_err(|error| refused("close_range", &error))?;
        }
        first = fd.wrapping_add(1);
    }
    take.iter()
        .map(|&fd| {
            // SAFETY: F_GETFD only asks; it fails for a number that is not open here.
            check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
            // SAFETY: the number is open in this thread's own copy of the table, where no object owns it yet.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}

fn refused(call: &'static str, error: &io::Error) -> io::Error {
    let refusal = Refusal { call, error: error.raw_os_error() };
    io::Error::new(error.kind(), format!("a shard cannot have a descriptor table of its own: {refusal}; --fd-table shared does without"))
}

/// The sockets that the service manager has handed over (`LISTEN_FDS`), once: a second call gives none.
pub fn listen_fds() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let numbers = sd_notify::listen_fds()?;
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: `listen_fds` has found each number open; they were there when the process began, and only this function takes them.
    Ok(numbers.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// Registers a listener that other epolls watch too: edge-triggered, and a new connection wakes one of those who sleep instead of all
/// of them (EPOLLEXCLUSIVE, which mio does not offer). They are asked in the order in which they registered.
pub fn epoll_add_exclusive(epoll: &impl AsRawFd, listener: &impl AsRawFd, token: usize) -> io::Result<()> {
    let events = (libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;
    let mut event = libc::epoll_event { events, u64: token as u64 };
    // SAFETY: both descriptors are open for the call, and the kernel only reads the event.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, listener.as_raw_fd(), &mut event) })
}

/// The number of a group, from wherever this host keeps its groups; None: there is no such group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = std::ffi::CString::new(name)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let mut group = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends with a NUL, the entry and the buffer are as large as is said, and both outlive the call.
        let error = unsafe { libc::getgrnam_r(name.as_ptr(), group.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) };
        match error {
            // A group with very many members.
            libc::ERANGE if buffer.len() < 16 << 20 => buffer.resize(buffer.len() * 4, 0),
            // SAFETY: the entry was found, so it has been written.
            0 if !found.is_null() => return Ok(Some(unsafe { group.assume_init() }.gr_gid)),
            0 | libc::ENOENT | libc::ESRCH => return Ok(None),
            _ => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// TCP_NOTSENT_LOWAT: bytes not yet sent that the kernel may hold for one socket.
pub fn set_notsent_lowat(socket: &impl AsRawFd, bytes: u32) -> io::Result<()> {
    let value = bytes as libc::c_int;
    // SAFETY: the descriptor is open for the call, and the value's address and length are those of a c_int.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// IP_BIND_ADDRESS_NO_PORT: a bind to port 0 chooses only the address, and connect chooses the port. Without it one source address
/// serves as many connections as there are ephemeral ports in all; with it, that many to each destination.
pub fn set_bind_address_no_port(socket: &impl AsRawFd) -> io::Result<()> {
    let value: libc::c_int = 1;
    // SAFETY: the descriptor is open for the call, and the value's address and length are those of a c_int.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// Gives pages that hold nothing any more back to the kernel, those of every thread. glibc does so by itself only at the end of a heap, and one small
/// allocation there keeps all before it.
pub fn release_free_memory() {
    // SAFETY: malloc_trim takes a number and locks what it works on.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// CPU time of the calling thread, user and kernel, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill; the clock of the calling thread always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Has a thread (0: the calling one; a process's number is that of its main thread) run before all that have no real-time priority: SCHED_FIFO, 1 to 99.
pub fn run_first(thread: u32, priority: i32) -> io::Result<()> {
    // SAFETY: a sched_param is numbers, for which zero is a value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: the kernel reads a valid sched_param and touches nothing else of ours.
    check(unsafe { libc::sched_setscheduler(thread as libc::pid_t, libc::SCHED_FIFO, &parameters) })
}

/// Has the calling thread give way to all that are as nice as usual, -20 to 19.
pub fn be_nice(niceness: i32) -> io::Result<()> {
    // SAFETY: three numbers; 0 is the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) })
}

/// Bytes of a memory page, the unit of /proc/net/sockstat.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf takes a number and gives one.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Makes the kernel end the command's process with SIGTERM when the calling thread ends, however it ends.
pub fn end_with_caller(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe, touches no memory, and its failure leaves the child as it would be without.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong);
            Ok(())
        });
    }
}

/// Overwrites these texts in the arguments of this process as every user of the host may read them (/proc/PID/cmdline, ps). Call it before any other thread
/// is started: the standard library reads them there each time that it is asked. Where they cannot be found, nothing is done.
pub fn hide_arguments(secrets: &[String]) {
    let Some((start, bytes)) = argument_area().filter(|_| !secrets.is_empty()) else { return };
    // SAFETY: the kernel tells where the arguments of this process lie: on its stack, readable and writable as long as it lives. No reference to them is
    // held by anybody (the standard library copies what it gives out), and no other thread is there that might read them meanwhile.
    let area = unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), bytes) };
    overwrite(area, secrets);
}

/// Where the arguments lie, and how many bytes they take.
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // proc_pid_stat(5): the third field is the first behind the name, which ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok().filter(|&address| address > 0);
    let (start, end) = (field(48)?, field(49)?);
    Some((start, end.checked_sub(start)?))
}

fn overwrite(area: &mut [u8], secrets: &[String]) {
    for secret in secrets.iter().map(String::as_bytes).filter(|secret| !secret.is_empty()) {
        let mut at = 0;
        while let Some(found) = area[at..].windows(secret.len()).position(|window| window == secret) {
            let begin = at + found;
            at = begin + secret.len();
            area[begin..at].fill(b'*');
        }
    }
}

/// Sends SIGTERM to a child. The caller must not have waited for it yet: until then its id is its own.
pub fn terminate(child: &std::process::Child) -> io::Result<()> {
    // SAFETY: kill takes numbers; the id belongs to the child, which has not been waited for.
    check(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) })
}

/// How long ago the other end of a TCP connection last acknowledged anything.
pub fn acknowledged_ago(socket: &impl AsRawFd) -> io::Result<Duration> {
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, and the kernel writes no more than `length` bytes.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut length) })?;
    Ok(Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

/// A numeric option of a TCP socket, for tests.
#[cfg(test)]
pub fn tcp_option(socket: &impl AsRawFd, name: libc::c_int) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, and value and length are valid for the kernel to write.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, (&raw mut value).cast(), &mut length) })?;
    Ok(value as u32)
}

/// The signals that a handler of ours takes; all others do what the kernel does by itself (SIGPIPE is ignored by Rust's own start).
const HANDLED_SIGNALS: [libc::c_int; 5] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// Blocks the signals that are handled on the calling thread and on every thread it starts from now on. A handler may run on any
/// thread that does not block them, and writes to a descriptor number that means somebody else's socket in a private table.
pub fn block_signals() -> io::Result<()> {
    mask_signals(libc::SIG_BLOCK)
}

/// Lets the calling thread receive them again.
pub fn unblock_signals() -> io::Result<()> {
    mask_signals(libc::SIG_UNBLOCK)
}

fn mask_signals(how: libc::c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is a valid value to be emptied, and the set outlives the calls that read it.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in HANDLED_SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(how, &set, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_overwritten_wherever_they_stand() {
        let mut area = *b"serve\0--a\0hush\0--b=hush\0hus\0";
        overwrite(&mut area, &["hush".to_owned(), String::new(), "x".repeat(100)]);
        assert_eq!(&area, b"serve\0--a\0****\0--b=****\0hus\0");
    }
}

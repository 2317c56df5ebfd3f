//! What comes in on each of a server's connections, and who takes it.

use super::{Role, RoleLink, Server, warn};
use crate::bus::hub::{Hub, Receipt};
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::durable;
use crate::bus::redis::fault::Fault;
use crate::bus::redis::link::Answer;
use crate::bus::redis::loading::Loading;
use crate::bus::redis::role;
use crate::clock::MonotonicNs;
use crate::sys;

impl Server {
    /// What the last read brought.
    pub(super) fn take_answers(&mut self, at: usize, hub: &mut Hub, now: MonotonicNs) -> Result<(), Fault> {
        let is_subscribed = self.is_subscribed();
        let RoleLink { role, link, .. } = &mut self.links[at];
        match role {
            Role::Subscribed => {
                let receipt = Receipt { received: sys::monotonic_ns(), timestamp_ms: sys::unix_ms() };
                while !hub.is_ahead()
                    && let Some(answer) = link.next_answer()?
                {
                    match answer {
                        Answer::Role { value } => role::no_master(value).map_or(Ok(()), |why| Err(Fault::new(why)))?,
                        answer => self.feed.take(hub, answer, receipt)?,
                    }
                }
                Ok(())
            }
            Role::Reading => {
                while self.feed.durables.has_room()
                    && !hub.is_ahead()
                    && let Some(answer) = link.next_answer()?
                {
                    match answer {
                        Answer::Durable { ticket, value } => self.feed.durables.answered(hub, ticket, Ok(value)),
                        Answer::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
                        Answer::Refused { asked: Asked::Durable(ticket), error } => {
                            if durable::is_without_library(error) {
                                self.library.iter_mut().for_each(Loading::doubt);
                            }
                            self.feed.durables.answered(hub, ticket, Err(error));
                        }
                        Answer::Library { value } => self.library.iter_mut().for_each(|library| library.answered(Ok(&value), now)),
                        Answer::Refused { asked: Asked::Library, error } => {
                            self.library.iter_mut().for_each(|library| library.answered(Err(error), now));
                        }
                        Answer::Probed => {
                            if let Some(probe) = &mut self.feed.probe {
                                probe.answered(Ok(()), hub.metrics(), now);
                            }
                        }
                        Answer::Refused { asked: Asked::Probe, error } => {
                            self.feed.note_moved(error);
                            if durable::is_without_library(error) {
                                self.library.iter_mut().for_each(Loading::doubt);
                            }
                            if let Some(probe) = &mut self.feed.probe {
                                probe.answered(Err(error), hub.metrics(), now);
                            }
                        }
                        Answer::Memory { value } => {
                            let line = self.eviction.answered(value);
                            warn(line.map(|line| format!("{line} ({})", self.make_link.target)));
                        }
                        Answer::Pong { .. } | Answer::Nothing => {}
                        _ => hub.metrics().protocol_errors.inc(),
                    }
                }
                Ok(())
            }
            Role::Keeping => self.desk.read(link, hub.metrics()),
            Role::Presence => {
                while let Some(answer) = link.next_answer()? {
                    match answer {
                        Answer::Presence { ticket, value } => self.presence.answered(hub, ticket, Ok(&value)),
                        Answer::Refused { error, .. } if error.code() == "NOAUTH" => return Err(Fault::refused(error)),
                        Answer::Refused { asked: Asked::Presence(ticket), error } => {
                            self.feed.note_moved(error);
                            self.presence.answered(hub, ticket, Err(error));
                        }
                        Answer::Pong { .. } | Answer::Nothing => {}
                        _ => hub.metrics().protocol_errors.inc(),
                    }
                }
                Ok(())
            }
            Role::Publishing => {
                let mut fenced = Vec::new();
                let mut take_one = || {
                    let Some(reply) = link.next_answer()? else { return Ok(false) };
                    match (&reply, &mut self.feed.probe) {
                        (Answer::Refused { asked: Asked::Revocations(_), error }, _) => self.feed.note_moved(error),
                        (Answer::Probed, Some(probe)) => {
                            probe.answered(Ok(()), hub.metrics(), now);
                            return Ok(true);
                        }
                        (Answer::Role { value }, Some(probe)) => {
                            probe.role_told(value, hub.metrics(), now);
                            return Ok(true);
                        }
                        (Answer::Refused { asked: Asked::Probe, error }, Some(probe)) if error.code() != "NOAUTH" => {
                            probe.answered(Err(error), hub.metrics(), now);
                            self.feed.note_moved(error);
                            return Ok(true);
                        }
                        _ => {}
                    }
                    if let (None, Answer::Revocations { .. } | Answer::Refused { asked: Asked::Revocations(_), .. }) =
                        (&self.feed.revocations, &reply)
                    {
                        // They are kept by another server since it was asked.
                        return Ok(true);
                    }
                    if self.feed.revocations.as_mut().is_some_and(|revocations| revocations.takes(&reply)) {
                        return Ok(true);
                    }
                    fenced.extend(self.outlet.take(&mut self.feed.publishes, hub, reply, is_subscribed)?);
                    Ok(true)
                };
                let result = loop {
                    match take_one() {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(fault) => break Err(fault),
                    }
                };
                // Also of those that were answered before what went wrong.
                self.fence(fenced, now);
                result
            }
        }
    }
}

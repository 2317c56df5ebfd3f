//! The scenarios: one file each, on top of [`crate::run::Run`].

pub mod arrivals;
pub mod broadcast;
pub mod channels;
pub mod churn;
pub mod coming_back;
pub mod connect;
pub mod echo;
pub mod failover;
pub mod fair;
pub mod floor;
pub mod handshakes;
pub mod hold;
pub mod mixed;
pub mod open;
pub mod outages;
pub mod publishers;
pub mod reload;
pub mod repair;
pub mod restart;
pub mod slow;
pub mod storm;

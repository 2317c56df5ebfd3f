//! How often something of a connection may happen: [`crate::rate`], by the shard's clock.

pub use crate::rate::{Moment, Rate, moment};

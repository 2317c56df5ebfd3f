//! MessagePack: skipping, checking and writing values. Skeleton.

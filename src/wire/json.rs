//! JSON: checking and writing values; MessagePack to JSON and back. Skeleton.

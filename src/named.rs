//! Enums whose variants have names that others see: a label in the metrics, a word of the protocol. Declared in one table, so that no variant
//! can be without its name, or missing where all of them are counted.

/// Declares an enum that can index an array, `ALL` of its variants in order, and the `name` of each.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// As it is written on the wire or in the metrics: small letters and `_`.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use named;

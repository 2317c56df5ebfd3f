//! Enums whose variants have names that others see: a label in the metrics, a word of the protocol, a value of a setting. Declared in one table, so
//! that no variant can be without its name, or missing where all of them are counted, and so that no name is written down again.

/// What is known of every such enum.
pub trait Named: Copy + PartialEq + 'static {
    /// In the order in which they are declared.
    const EACH: &'static [Self];
    /// The names, as a message lists them.
    const NAMES: &'static str;

    fn name(self) -> &'static str;

    fn from_name(name: &str) -> Option<Self> {
        Self::EACH.iter().copied().find(|variant| variant.name() == name)
    }
}

/// Declares an enum that can index an array, `ALL` of its variants in order, and the `name` of each.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }
        impl $name {
            pub const ALL: [$name; [$($text),*].len()] = [$($name::$variant,)*];

            /// As it is written on the wire, in the metrics and in settings.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
        impl $crate::named::Named for $name {
            const EACH: &'static [$name] = &$name::ALL;
            const NAMES: &'static str = $crate::named::named!(@listed $($text,)*);

            fn name(self) -> &'static str {
                $name::name(self)
            }
        }
    };
    (@listed $first:literal, $($other:literal,)*) => { concat!($first $(, ", ", $other)*) };
}
pub(crate) use named;

//! How one setting is read from the tree, checked, and written back; and the two macros that declare settings.
//!
//! A section is declared once, in [`schema`](super::schema): the field, its meaning, its type, its range and its
//! default. Reading, the list of known keys and the resolved YAML all follow from that declaration.

use std::fmt::{Debug, Display};
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::PathBuf;

use super::value::{Origin, Source, Value};
use crate::{Error, Result};

/// The place of a setting, for its error messages.
pub(super) struct At<'a> {
    pub source: &'a Source,
    pub key: String,
    pub origin: Origin,
}

impl At<'_> {
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.source.error(self.origin, &self.key, message)
    }

    /// The error of a value of the wrong kind.
    pub fn expected(&self, what: &str, got: &Value) -> Error {
        self.error(format!("expected {what}, got {}", got.describe()))
    }

    /// The place of `field` in this section, whose value is `section`.
    pub fn child(&self, field: &str, origin: Origin) -> At<'_> {
        let key = if self.key.is_empty() { field.to_string() } else { format!("{}.{field}", self.key) };
        At { source: self.source, key, origin }
    }
}

/// A value or a section of the configuration.
pub(super) trait Setting: Sized {
    /// Reads it from the (resolved) tree.
    fn read(value: &Value, at: &At) -> Result<Self>;

    /// The tree that reads back as this value.
    fn write(&self) -> Value;

    /// Adds the dotted keys it consists of.
    fn keys(key: &str, out: &mut Vec<String>) {
        out.push(key.to_string());
    }
}

impl Setting for bool {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Bool(value) => Ok(*value),
            other => Err(at.expected("true or false", other)),
        }
    }

    fn write(&self) -> Value {
        Value::Bool(*self)
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(value: &Value, at: &At) -> Result<Self> {
                match value {
                    Value::Int(value) => Self::try_from(*value)
                        .map_err(|_| at.error(format!("expected a whole number from {} to {}, got {value}", Self::MIN, Self::MAX))),
                    other => Err(at.expected("a whole number", other)),
                }
            }

            fn write(&self) -> Value {
                Value::Int(*self as i128)
            }
        }
    )*};
}
whole_numbers!(usize, u64, i64);

impl Setting for f64 {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Int(value) => Ok(*value as f64),
            Value::Float(value) if value.is_finite() => Ok(*value),
            other => Err(at.expected("a finite number", other)),
        }
    }

    fn write(&self) -> Value {
        Value::Float(*self)
    }
}

impl Setting for String {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Text(text) if !text.is_empty() => Ok(text.clone()),
            // `name: 7b` is text to YAML and `name: 7` is not; both are names.
            Value::Int(value) => Ok(value.to_string()),
            other => Err(at.expected("text", other)),
        }
    }

    fn write(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Setting for PathBuf {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Text(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            other => Err(at.expected("a path", other)),
        }
    }

    fn write(&self) -> Value {
        // Paths come from the YAML or the command line, which are UTF-8.
        Value::Text(self.to_string_lossy().into_owned())
    }
}

/// `null` and the empty text (NeMo writes both) are `None`.
impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Null => Ok(None),
            Value::Text(text) if text.is_empty() => Ok(None),
            value => T::read(value, at).map(Some),
        }
    }

    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }
}

/// One path, a list of paths, or null for none.
impl Setting for Vec<PathBuf> {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Text(text) if text.is_empty() => Ok(Vec::new()),
            Value::List(items) => items.iter().map(|item| PathBuf::read(item, at)).collect(),
            value => Ok(vec![PathBuf::read(value, at)?]),
        }
    }

    fn write(&self) -> Value {
        Value::List(self.iter().map(PathBuf::write).collect())
    }
}

impl<T: Setting> Setting for [T; 2] {
    fn read(value: &Value, at: &At) -> Result<Self> {
        match value {
            Value::List(items) => match items.as_slice() {
                [first, second] => Ok([T::read(first, at)?, T::read(second, at)?]),
                _ => Err(at.expected("a list of 2", value)),
            },
            other => Err(at.expected("a list of 2", other)),
        }
    }

    fn write(&self) -> Value {
        Value::List(self.iter().map(T::write).collect())
    }
}

/// The numbers inside a setting that a range applies to.
pub(super) trait Numbers<T> {
    fn numbers(&self) -> Vec<T>;
}

impl<T: Copy> Numbers<T> for T {
    fn numbers(&self) -> Vec<T> {
        vec![*self]
    }
}

impl<T: Copy> Numbers<T> for Option<T> {
    fn numbers(&self) -> Vec<T> {
        self.iter().copied().collect()
    }
}

impl<T: Copy> Numbers<T> for [T; 2] {
    fn numbers(&self) -> Vec<T> {
        self.to_vec()
    }
}

impl<T: Copy> Numbers<T> for Option<[T; 2]> {
    fn numbers(&self) -> Vec<T> {
        self.iter().flatten().copied().collect()
    }
}

/// Checks that each number of `setting` lies in `range`.
pub(super) fn within<T, N, R>(setting: &N, range: R, at: &At) -> Result<()>
where
    T: PartialOrd + Debug + Display + Copy,
    N: Numbers<T>,
    R: RangeBounds<T>,
{
    // Thirty zeros are not to be read.
    let show = |number: &T| match number.to_string() {
        long if long.len() > 20 => format!("{number:?}"),
        short => short,
    };
    for number in setting.numbers() {
        if !range.contains(&number) {
            let lowest = match range.start_bound() {
                Bound::Included(low) => format!("of at least {}", show(low)),
                Bound::Excluded(low) => format!("above {}", show(low)),
                Bound::Unbounded => String::new(),
            };
            let highest = match range.end_bound() {
                Bound::Included(high) => format!("of at most {}", show(high)),
                Bound::Excluded(high) => format!("below {}", show(high)),
                Bound::Unbounded => String::new(),
            };
            let and = if lowest.is_empty() || highest.is_empty() { "" } else { " and " };
            return Err(at.error(format!("expected a number {lowest}{and}{highest}, got {}", show(&number))));
        }
    }
    Ok(())
}

/// Every number above zero, which `..` cannot spell.
pub(super) const ABOVE_ZERO: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Unbounded);

/// What is added so that nothing is divided by zero: above zero in f32 too.
pub(super) const EPSILON: RangeInclusive<f64> = 1e-30..=1.0;

/// Every number above zero and at most one.
pub(super) const SHARE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));

/// Declares a section: `field as "yaml key": type [range] = default`, the key only where it differs from the field.
macro_rules! section {
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $field:ident $(as $key:literal)? : $type:ty $([$range:expr])? = $default:expr,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(value: &$crate::config::value::Value, at: &$crate::config::setting::At) -> $crate::Result<Self> {
                use $crate::config::value::Value;
                let mut section = Self::default();
                match value {
                    Value::Null => return Ok(section),
                    Value::Map(_) => {}
                    other => return Err(at.expected("a mapping of keys", other)),
                }
                $(
                    if let Some(entry) = value.entry(section!(@key $field $($key)?)) {
                        let at = at.child(&entry.key, entry.origin);
                        section.$field = <$type as $crate::config::setting::Setting>::read(&entry.value, &at)?;
                        $($crate::config::setting::within(&section.$field, $range, &at)?;)?
                    }
                )*
                Ok(section)
            }

            fn write(&self) -> $crate::config::value::Value {
                use $crate::config::value::{Entry, Origin, Value};
                Value::Map(vec![$(Entry {
                    key: section!(@key $field $($key)?).to_string(),
                    value: $crate::config::setting::Setting::write(&self.$field),
                    origin: Origin::Default,
                },)*])
            }

            fn keys(key: &str, out: &mut Vec<String>) {
                let dot = if key.is_empty() { "" } else { "." };
                $(<$type as $crate::config::setting::Setting>::keys(
                    &format!("{key}{dot}{}", section!(@key $field $($key)?)), out);)*
            }
        }
    };
}
pub(super) use section;

/// Declares a setting with a few words as values: `Variant = "word" | "other spelling"`. The first is written back.
/// Words of NeMo's that are not supported can follow: `refused "word" | "word": "why"`.
macro_rules! choices {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $other:literal)*,)*
        } $(refused $first:literal $(| $more:literal)*: $why:literal)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every word in the YAML.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word in the YAML.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The choice of a word, or of another name for it.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word $(| $other)* => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(value: &$crate::config::value::Value, at: &$crate::config::setting::At) -> $crate::Result<Self> {
                let words = Self::WORDS.join(" or ");
                let given = value.scalar_text();
                match given.as_deref() {
                    $(Some($word $(| $other)*) => Ok(Self::$variant),)*
                    $(Some($first $(| $more)*) => {
                        let given = given.unwrap_or_default();
                        Err(at.error(format!("{given} is not supported: {}; expected {words}", $why)))
                    })?
                    _ => Err(at.expected(&words, value)),
                }
            }

            fn write(&self) -> $crate::config::value::Value {
                $crate::config::value::Value::Text(self.word().to_string())
            }
        }
    };
}
pub(super) use choices;

//! Choices: enums whose values have names, as configurations and options write them.

/// Defines an enum with a name for each value. It is read and written as its name; a text that is none of the names is
/// an error that lists them.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $name { $($(#[$about])* $value,)+ }

        impl $name {
            /// The names of all values.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
        }

        impl From<$name> for &'static str {
            fn from(value: $name) -> Self {
                match value { $($name::$value => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str((*self).into())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$value),)+
                    _ => Err(format!("found `{text}`, expected one of {}", $crate::choice::list(Self::NAMES))),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    };
}

/// ``"`a`, `b`"``
pub fn list(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    choice! {
        /// For the test.
        Fruit {
            /// A fruit.
            Apple = "apple",
            /// Another.
            BloodOrange = "blood-orange",
        }
    }

    #[test]
    fn every_value_goes_by_its_name() {
        assert_eq!(Fruit::NAMES, ["apple", "blood-orange"]);
        for (value, name) in [(Fruit::Apple, "apple"), (Fruit::BloodOrange, "blood-orange")] {
            assert_eq!((name.parse(), value.to_string()), (Ok(value), name.to_string()));
            assert_eq!(serde_json::to_value(value).unwrap(), name);
            assert_eq!(serde_json::from_value::<Fruit>(name.into()).unwrap(), value);
        }
        let e = serde_json::from_value::<Fruit>("pear".into()).unwrap_err().to_string();
        assert_eq!(e, "found `pear`, expected one of `apple`, `blood-orange`");
    }
}

//! `Json` to and from Rust types, without losing a digit.

use std::fmt;
use std::sync::Arc;

use serde::de::value::{MapDeserializer, SeqDeserializer, UnitDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::{Serialize, forward_to_deserialize_any};

use super::Json;

/// Why a value does not have the shape a type wants, or a type cannot become JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        DecodeError(message.to_string())
    }
}

impl Json {
    /// Reads a Rust type from this value.
    ///
    /// # Errors
    /// When the value does not have the shape of `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        T::deserialize(self)
    }

    /// The value a Rust type serializes to.
    ///
    /// # Errors
    /// When `T` is not representable: floats that are not finite, map keys that are not text,
    /// U+0000 in a string.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Json, DecodeError> {
        // Text keeps digits that no number type of the data model can hold.
        let text = serde_json::to_string(value).map_err(de::Error::custom)?;
        Json::parse(&text).map_err(de::Error::custom)
    }
}

impl<'de> IntoDeserializer<'de, DecodeError> for &'de Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A string key, borrowed, so that it may name a field, a variant or a map entry.
fn key<'de>(entry: (&'de Arc<str>, &'de Json)) -> (&'de str, &'de Json) {
    (entry.0, entry.1)
}

impl<'de> Deserializer<'de> for &'de Json {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(*value),
            Json::Num(num) => match (num.as_i64(), num.as_digits(), num.as_f64()) {
                (Some(int), _, _) => visitor.visit_i64(int),
                (None, Some(digits), _) => {
                    if let Ok(value) = digits.parse() {
                        return visitor.visit_u64(value);
                    }
                    let unit = UnitDeserializer::<DecodeError>::new();
                    let entry = std::iter::once((unit, digits));
                    visitor.visit_map(MapDeserializer::new(entry.map(|(k, v)| (UnitKey(k), v))))
                }
                (None, None, float) => visitor.visit_f64(float.unwrap_or_default()),
            },
            Json::Str(text) => visitor.visit_borrowed_str(text),
            Json::Arr(items) => {
                let mut seq = SeqDeserializer::new(items.iter());
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Json::Obj(members) => {
                let mut map = MapDeserializer::new(members.iter().map(key));
                let value = visitor.visit_map(&mut map)?;
                map.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.as_f64() {
            Some(value) => visitor.visit_f64(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Json::Str(name) => visitor.visit_enum(Variant { name, value: None }),
            Json::Obj(members) => match members.iter().next() {
                Some((name, value)) if members.len() == 1 => {
                    visitor.visit_enum(Variant { name, value: Some(value) })
                }
                _ => Err(de::Error::custom("expected an object with a single key")),
            },
            _ => Err(de::Error::custom("expected a string or an object")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A map key that no JSON text can produce.
struct UnitKey(UnitDeserializer<DecodeError>);

impl<'de> IntoDeserializer<'de, DecodeError> for UnitKey {
    type Deserializer = UnitDeserializer<DecodeError>;

    fn into_deserializer(self) -> Self::Deserializer {
        self.0
    }
}

/// One variant of an externally tagged enum.
struct Variant<'de> {
    name: &'de str,
    value: Option<&'de Json>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), DecodeError> {
        let name = seed.deserialize(self.name.into_deserializer())?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.value {
            None | Some(Json::Null) => Ok(()),
            Some(_) => Err(de::Error::custom("this variant takes no value")),
        }
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.value.unwrap_or(Json::null_ref()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.value.unwrap_or(Json::null_ref()).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.value.unwrap_or(Json::null_ref()).deserialize_any(visitor)
    }
}

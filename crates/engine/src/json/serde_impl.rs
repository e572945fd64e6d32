//! `Json` inside serde types.
//!
//! Reading asks the deserializer for the raw text first (`serde_json` has it, and then no digit
//! is lost), and takes what the data model offers otherwise. [`super::Json::decode`] hands over
//! numbers beyond i64 and f64 as a map whose only key is a unit: no JSON text can produce such a
//! key, so data cannot imitate it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

use super::{Json, Num};

/// The name by which `serde_json` and its `RawValue` recognise each other. A test fails when a
/// release of `serde_json` changes it.
pub(super) const RAW_VALUE: &str = "$serde_json::private::RawValue";

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_i64() {
            Some(int) => serializer.serialize_i64(int),
            // The canonical text: `serde_json` itself would print some floats with an exponent.
            None => serde_json::value::RawValue::from_string(self.to_string())
                .map_err(ser::Error::custom)?
                .serialize(serializer),
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Num(num) => num.serialize(serializer),
            Json::Str(text) => serializer.serialize_str(text),
            Json::Arr(items) => serializer.collect_seq(items.iter()),
            Json::Obj(members) => serializer.collect_map(members.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_newtype_struct(RAW_VALUE, RawVisitor)
    }
}

/// Takes the raw text from a deserializer that knows [`RAW_VALUE`].
struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Json, D::Error> {
        inner.deserialize_any(AnyVisitor)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        if map.next_key::<&str>()? != Some(RAW_VALUE) {
            return Err(de::Error::custom("expected raw JSON text"));
        }
        map.next_value().map(|Raw(value)| value)
    }
}

/// A value read from its raw text, where that stands.
struct Raw(Json);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
                Json::parse(text).map(Raw).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// Takes whatever the data model offers.
struct AnyVisitor;

/// A value read through [`AnyVisitor`], without asking for raw text.
struct Any(Json);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor).map(Any)
    }
}

/// A map key: text, or the unit that marks a number.
enum Key {
    Text(Arc<str>),
    Digits,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object key")
            }
            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(Key::Text(text.into()))
            }
            fn visit_unit<E>(self) -> Result<Key, E> {
                Ok(Key::Digits)
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Json, D::Error> {
        inner.deserialize_any(AnyVisitor)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        number(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Json::from_f64(value).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        if text.contains('\0') {
            return Err(E::custom("\\u0000 cannot be stored"));
        }
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(Any(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Arr(Arc::new(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(key) = map.next_key()? {
            match key {
                Key::Text(key) => {
                    if key.contains('\0') {
                        return Err(de::Error::custom("\\u0000 cannot be stored"));
                    }
                    let Any(value) = map.next_value()?;
                    members.insert(key, value);
                }
                Key::Digits => return number(&map.next_value::<String>()?),
            }
        }
        Ok(Json::Obj(Arc::new(members)))
    }
}

fn number<E: de::Error>(text: &str) -> Result<Json, E> {
    Num::parse(text).map(Json::Num).ok_or_else(|| E::custom("number out of range"))
}

//! What a schema costs, known before it checks anything.
//!
//! A schema is a graph: some keywords apply further schemas to the same value (`allOf`, `$ref`, …), some to
//! its members or elements. From it follows how many checks at most fall on one value at each depth of a
//! document, and how deep they are nested. References that double at each step, or that go round without
//! coming to a smaller value, are found here instead of by a server that no longer answers.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::{DIALECT, MAX_CHECKS_PER_VALUE, MAX_SCHEMA_DEPTH};
use crate::definition::pointer;
use crate::json::{Json, MAX_DOCUMENT_DEPTH};

/// A fault: JSON pointer into the schema, code, message.
pub(super) type Fault = (String, &'static str, String);

/// Keywords whose work cannot be bounded, or that change what a reference means.
const REFUSED: [&str; 11] = [
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "dependencies",
    "discriminator",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords with a list of schemas for the same value.
const IN_PLACE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords with one schema for the same value.
const IN_PLACE: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords that take longer the more they say, and how many bytes of them make a check.
const LISTS: [&str; 4] = ["const", "enum", "required", "dependentRequired"];
const BYTES_PER_CHECK: usize = 64;

/// A schema and those it applies, as indexes.
#[derive(Debug, Default)]
struct Links {
    weight: u64,
    /// To the same value.
    in_place: Vec<usize>,
    /// Each to other members than the rest.
    members: Vec<usize>,
    /// To members that others are applied to as well.
    more_members: Vec<usize>,
    /// Each to other elements than the rest.
    elements: Vec<usize>,
    /// To elements that others are applied to as well.
    more_elements: Vec<usize>,
}

#[derive(Debug)]
struct Graph<'a> {
    root: &'a Json,
    nodes: Vec<Links>,
    by_pointer: BTreeMap<String, usize>,
    unread: Vec<(usize, String, &'a Json)>,
    faults: Vec<Fault>,
}

/// How many checks at most fall on one value of a document, or the faults of a schema that its meta-schema
/// finds none in.
pub(super) fn checks(schema: &Json) -> Result<u64, Vec<Fault>> {
    let mut graph = Graph {
        root: schema,
        nodes: Vec::new(),
        by_pointer: BTreeMap::new(),
        unread: Vec::new(),
        faults: Vec::new(),
    };
    graph.node(String::new(), schema);
    while let Some((index, at, schema)) = graph.unread.pop() {
        graph.nodes[index] = graph.read(&at, schema);
    }
    if !graph.faults.is_empty() {
        return Err(graph.faults);
    }
    graph.most_checks().map_err(|fault| vec![fault])
}

impl<'a> Graph<'a> {
    /// The node of the schema at a pointer; read later, for references make long chains.
    fn node(&mut self, at: String, schema: &'a Json) -> usize {
        if let Some(index) = self.by_pointer.get(&at) {
            return *index;
        }
        let index = self.nodes.len();
        self.nodes.push(Links::default());
        self.by_pointer.insert(at.clone(), index);
        self.unread.push((index, at, schema));
        index
    }

    fn read(&mut self, at: &str, schema: &'a Json) -> Links {
        let mut links = Links { weight: 1, ..Links::default() };
        let Some(keywords) = schema.as_obj() else {
            if schema.as_bool().is_none() {
                self.faults.push((at.to_owned(), "schema", "there is no schema here".to_owned()));
            }
            return links;
        };
        if let Some(key) = REFUSED.iter().find(|key| keywords.contains_key(**key)) {
            self.faults.push((
                pointer(at, key),
                "unsupported",
                format!("\"{key}\" is not supported in schemas of workflows"),
            ));
        }
        if let Some(dialect) = keywords.get("$schema")
            && dialect.as_str().is_none_or(|dialect| dialect.trim_end_matches('#') != DIALECT)
        {
            let message = format!("the dialect of schemas is {DIALECT}");
            self.faults.push((pointer(at, "$schema"), "unsupported", message));
        }
        let listed = LISTS.iter().filter_map(|key| keywords.get(*key)).map(|list| list.to_string().len());
        links.weight += listed.sum::<usize>().div_ceil(BYTES_PER_CHECK) as u64;
        for key in IN_PLACE_LISTS {
            links.in_place.extend(self.list(at, key, keywords.get(key)));
        }
        for key in IN_PLACE {
            links.in_place.extend(self.one(at, key, keywords.get(key)));
        }
        links.in_place.extend(self.map(at, "dependentSchemas", keywords.get("dependentSchemas")));
        links.in_place.extend(self.reference(at, keywords.get("$ref")));
        links.members.extend(self.map(at, "properties", keywords.get("properties")));
        links.members.extend(self.one(at, "additionalProperties", keywords.get("additionalProperties")));
        links.more_members.extend(self.map(at, "patternProperties", keywords.get("patternProperties")));
        links.more_members.extend(self.one(at, "propertyNames", keywords.get("propertyNames")));
        links.elements.extend(self.list(at, "prefixItems", keywords.get("prefixItems")));
        links.elements.extend(self.one(at, "items", keywords.get("items")));
        links.more_elements.extend(self.one(at, "contains", keywords.get("contains")));
        // Nobody may refer to them yet; what they refer to must be there all the same.
        self.map(at, "$defs", keywords.get("$defs"));
        links
    }

    fn one(&mut self, at: &str, key: &str, schema: Option<&'a Json>) -> Option<usize> {
        schema.map(|schema| self.node(pointer(at, key), schema))
    }

    fn list(&mut self, at: &str, key: &str, schemas: Option<&'a Json>) -> Vec<usize> {
        let at = pointer(at, key);
        let schemas = schemas.and_then(Json::as_arr).unwrap_or_default();
        schemas.iter().enumerate().map(|(i, schema)| self.node(pointer(&at, i), schema)).collect()
    }

    fn map(&mut self, at: &str, key: &str, schemas: Option<&'a Json>) -> Vec<usize> {
        let at = pointer(at, key);
        let schemas = schemas.and_then(Json::as_obj).into_iter().flatten();
        schemas.map(|(name, schema)| self.node(pointer(&at, name), schema)).collect()
    }

    fn reference(&mut self, at: &str, reference: Option<&'a Json>) -> Option<usize> {
        let text = reference?.as_str()?;
        let at = pointer(at, "$ref");
        let Some(place) = text.strip_prefix('#').filter(|place| place.is_empty() || place.starts_with('/'))
        else {
            let message = format!(
                "\"{text}\" is not a place in this schema; nothing is fetched, write for example \"#/$defs/address\""
            );
            self.faults.push((at, "reference", message));
            return None;
        };
        let place = percent_decode_str(place).decode_utf8_lossy().into_owned();
        match self.root.pointer(&place) {
            Some(schema) => Some(self.node(place, schema)),
            None => {
                self.faults.push((at, "reference", format!("there is nothing at \"{text}\" in this schema")));
                None
            }
        }
    }

    /// The most checks of one value, or what makes the schema take too long.
    fn most_checks(&self) -> Result<u64, Fault> {
        let Some(order) = self.order() else {
            let message = "a reference goes round without coming to a part of the document";
            return Err((String::new(), "reference", message.to_owned()));
        };
        let mut most_checks = 0;
        let mut checks = vec![0u64; self.nodes.len()];
        let mut depth = vec![0u64; self.nodes.len()];
        for level in 0..=MAX_DOCUMENT_DEPTH {
            let (above, deeper) = (checks, depth);
            checks = vec![0; self.nodes.len()];
            depth = vec![1; self.nodes.len()];
            for index in order.iter().copied() {
                let links = &self.nodes[index];
                let most = |them: &[usize]| them.iter().map(|i| above[*i]).max().unwrap_or(0);
                let all =
                    |them: &[usize], of: &[u64]| them.iter().fold(0u64, |sum, i| sum.saturating_add(of[*i]));
                let own = match level {
                    0 => links.weight,
                    _ => (most(&links.members).saturating_add(all(&links.more_members, &above)))
                        .max(most(&links.elements).saturating_add(all(&links.more_elements, &above))),
                };
                checks[index] = own.saturating_add(all(&links.in_place, &checks));
                let beside = links.in_place.iter().map(|i| depth[*i]);
                let children = [&links.members, &links.more_members, &links.elements, &links.more_elements];
                let below = children.into_iter().flatten().map(|i| deeper[*i]);
                depth[index] = 1 + beside.chain(below).max().unwrap_or(0);
            }
            if checks[0] > MAX_CHECKS_PER_VALUE {
                let message = format!(
                    "the schema checks a value at depth {level} of a document {} times or more; the limit is {MAX_CHECKS_PER_VALUE}",
                    checks[0]
                );
                return Err((String::new(), "limit", message));
            }
            if depth[0] > MAX_SCHEMA_DEPTH {
                let message = format!(
                    "checking a document applies schemas more than {MAX_SCHEMA_DEPTH} deep within each other"
                );
                return Err((String::new(), "limit", message));
            }
            most_checks = most_checks.max(checks[0]);
        }
        Ok(most_checks)
    }

    /// The nodes with what they apply to the same value before themselves; `None` if that goes round.
    fn order(&self) -> Option<Vec<usize>> {
        let mut waiting: Vec<usize> = self.nodes.iter().map(|links| links.in_place.len()).collect();
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (index, links) in self.nodes.iter().enumerate() {
            links.in_place.iter().for_each(|target| users[*target].push(index));
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(|index| waiting[*index] == 0).collect();
        let mut next = 0;
        while let Some(index) = order.get(next).copied() {
            next += 1;
            for user in &users[index] {
                waiting[*user] -= 1;
                if waiting[*user] == 0 {
                    order.push(*user);
                }
            }
        }
        (order.len() == self.nodes.len()).then_some(order)
    }
}

//! The state of one evaluation: what is left of the budget, and the variables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;

use super::budget::Budget;
use super::error::{ExprCode, Fault, fault};
use crate::json::Json;

/// Deepest nesting of terms under evaluation. Chosen so that an unoptimised build stays within a
/// stack of 1 MiB; a test holds that.
pub(super) const MAX_EVAL_DEPTH: u32 = 160;
/// Values looked at per step.
const VALUES_PER_STEP: u64 = 16;
/// Bytes looked at per step.
const BYTES_PER_STEP: u64 = 64;

/// What a consumer of outputs answers.
pub(super) enum Next {
    /// Go on.
    More,
    /// No further output is wanted.
    Stop,
}

/// Result of handing an output on.
pub(super) type Flow = Result<Next, Fault>;
/// A consumer of outputs.
pub(super) type Out<'o> = &'o mut dyn FnMut(&mut Cx<'_>, Json) -> Flow;

pub(super) struct Cx<'b> {
    budget: &'b mut Budget,
    /// Steps left, and at the start.
    fuel: u64,
    start: u64,
    depth: u32,
    pub slots: Vec<Json>,
    /// Regular expressions built from data, by pattern and flags.
    pub regexes: HashMap<String, Arc<Regex>>,
}

impl<'b> Cx<'b> {
    pub fn new(budget: &'b mut Budget, slots: usize) -> Cx<'b> {
        let fuel = budget.allowance();
        Cx { budget, fuel, start: fuel, depth: 0, slots: vec![Json::Null; slots], regexes: HashMap::new() }
    }

    /// Enters a term: one step, one level.
    pub fn enter(&mut self) -> Result<(), Fault> {
        if self.depth >= MAX_EVAL_DEPTH {
            return Err(fault(ExprCode::TooComplex, "expression is nested too deeply to be evaluated"));
        }
        self.steps(1)?;
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Uses steps.
    pub fn steps(&mut self, count: u64) -> Result<(), Fault> {
        let before = self.fuel;
        let Some(after) = before.checked_sub(count) else {
            self.fuel = 0;
            return Err(fault(ExprCode::Budget, format!("expression used up its {} steps", self.start)));
        };
        self.fuel = after;
        if before >> 10 != after >> 10
            && let Some(interrupt) = self.budget.interrupt
        {
            interrupt();
        }
        Ok(())
    }

    /// Uses steps for looking at some values.
    pub fn values(&mut self, count: usize) -> Result<(), Fault> {
        self.steps(count as u64 / VALUES_PER_STEP)
    }

    /// Uses steps for looking at some bytes.
    pub fn scan(&mut self, bytes: usize) -> Result<(), Fault> {
        self.steps(bytes as u64 / BYTES_PER_STEP)
    }

    /// Uses bytes, before they are allocated.
    pub fn alloc(&mut self, bytes: usize) -> Result<(), Fault> {
        match self.budget.bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.budget.bytes = left;
                Ok(())
            }
            None => Err(fault(ExprCode::Budget, "expression used up the memory of its node")),
        }
    }

    /// Uses bytes for an array of this many items.
    pub fn alloc_items(&mut self, items: usize) -> Result<(), Fault> {
        self.alloc(items.saturating_mul(size_of::<Json>()).saturating_add(40))
    }

    /// Adds an item to an array that is being collected, and pays for its growth.
    pub fn push(&mut self, items: &mut Vec<Json>, item: Json) -> Result<(), Fault> {
        if items.len() == items.capacity() {
            // While it grows, the old place exists beside one of twice the size.
            let more = items.capacity().max(4);
            self.alloc(more.saturating_mul(4 * size_of::<Json>()))?;
            items.reserve_exact(more);
        }
        items.push(item);
        Ok(())
    }

    /// Uses bytes for an object of this many members, keys excluded.
    pub fn alloc_members(&mut self, members: usize) -> Result<(), Fault> {
        // The tree allocates whole nodes of eleven members.
        let nodes = if members == 0 { 0 } else { 448 };
        self.alloc(members.saturating_mul(64).saturating_add(40 + nodes))
    }

    /// Uses bytes and steps for a string of this length.
    pub fn alloc_string(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes > self.budget.max_string {
            return Err(fault(
                ExprCode::Budget,
                format!("string is longer than {} bytes", self.budget.max_string),
            ));
        }
        self.scan(bytes)?;
        self.alloc(bytes + 24)
    }

    pub fn max_string(&self) -> usize {
        self.budget.max_string
    }

    /// A string whose length is already paid for.
    pub fn string(&mut self, text: impl Into<Arc<str>>) -> Result<Json, Fault> {
        let text = text.into();
        if text.contains('\0') {
            return Err(fault(
                ExprCode::Value,
                "the result would contain the character U+0000, which cannot be stored",
            ));
        }
        Ok(Json::Str(text))
    }

    /// A new string; pays for it.
    pub fn new_string(&mut self, text: impl Into<Arc<str>>) -> Result<Json, Fault> {
        let text = text.into();
        self.alloc_string(text.len())?;
        self.string(text)
    }

    /// An array around existing values; its items are paid for by whoever collected them.
    pub fn array(&mut self, items: Vec<Json>) -> Result<Json, Fault> {
        for item in &items {
            self.check_depth(item, self.budget.max_depth)?;
        }
        Ok(Json::Arr(Arc::new(items)))
    }

    /// A new array; pays for it.
    pub fn new_array(&mut self, items: Vec<Json>) -> Result<Json, Fault> {
        self.alloc_items(items.len())?;
        self.array(items)
    }

    /// A new object; pays for it.
    pub fn new_object(&mut self, members: BTreeMap<Arc<str>, Json>) -> Result<Json, Fault> {
        self.alloc_members(members.len())?;
        for value in members.values() {
            self.check_depth(value, self.budget.max_depth)?;
        }
        Ok(Json::Obj(Arc::new(members)))
    }

    /// Refuses containers that are nested `levels` deep or deeper. Pays for every value on the
    /// way: values may share parts, and then hold far more of them than memory does.
    fn check_depth(&mut self, value: &Json, levels: usize) -> Result<(), Fault> {
        match value {
            Json::Arr(_) | Json::Obj(_) if levels <= 1 => {
                let limit = self.budget.max_depth;
                let message = format!("value is nested deeper than {limit} levels");
                Err(fault(ExprCode::Budget, message))
            }
            Json::Arr(items) => {
                self.values(items.len())?;
                // Less than a step's worth must not come for free when it repeats.
                self.steps(1)?;
                let mut items = items.iter();
                items.try_for_each(|item| self.check_depth(item, levels - 1))
            }
            Json::Obj(members) => {
                self.values(members.len())?;
                self.steps(1)?;
                let mut values = members.values();
                values.try_for_each(|value| self.check_depth(value, levels - 1))
            }
            _ => Ok(()),
        }
    }

    /// Pays for looking at every value and every byte of `value`, `times` times.
    pub fn pay_walk(&mut self, value: &Json, times: u64) -> Result<(), Fault> {
        match value {
            Json::Str(text) => self.steps((text.len() as u64 / BYTES_PER_STEP) * times),
            Json::Arr(items) => {
                self.steps((1 + items.len() as u64 / VALUES_PER_STEP) * times)?;
                items.iter().try_for_each(|item| self.pay_walk(item, times))
            }
            Json::Obj(members) => {
                self.steps((1 + members.len() as u64 / VALUES_PER_STEP * 2) * times)?;
                let mut values = members.values();
                values.try_for_each(|value| self.pay_walk(value, times))
            }
            _ => Ok(()),
        }
    }

    /// Checks the size of a final result.
    pub fn check_output(&mut self, value: &Json) -> Result<(), Fault> {
        self.check_outputs(value, &mut 0)
    }

    /// Checks the size of final results, all together.
    pub fn check_outputs(&mut self, value: &Json, size: &mut usize) -> Result<(), Fault> {
        let limit = self.budget.max_output;
        if value.measure(limit, size) {
            return Ok(());
        }
        let message = format!("result is larger than {limit} bytes");
        Err(fault(ExprCode::Budget, message))
    }

    /// The level of nesting, to be restored after a caught fault.
    pub fn mark(&self) -> u32 {
        self.depth
    }

    pub fn restore(&mut self, mark: u32) {
        self.depth = mark;
    }
}

impl Drop for Cx<'_> {
    fn drop(&mut self) {
        self.budget.book(self.start - self.fuel);
    }
}

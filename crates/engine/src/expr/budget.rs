//! How much work an expression may do. Counted, never timed: the same expression on the same
//! data always uses the same number of steps, so that running out replays like everything else.

use crate::json::MAX_DEPTH;

/// What the expressions of one node may use together. One value per rendered node.
///
/// A step is one evaluated term, or a fixed amount of work in a built-in function (about 16
/// values or 64 bytes looked at).
#[derive(Clone, Debug)]
pub struct Budget {
    /// Steps left for the node (default 1,000,000).
    pub node_steps: u64,
    /// Steps each single expression may use (default 100,000).
    pub expr_steps: u64,
    /// Bytes left that strings, arrays and objects may allocate (default 12 MiB, so that with what
    /// an allocator adds a node stays below 16). Counts every allocation, also of values that are
    /// dropped again.
    pub bytes: u64,
    /// Longest string that may be built, in bytes (default 1 MiB).
    pub max_string: usize,
    /// Largest result of one expression, in bytes of JSON text (default 1 MiB).
    pub max_output: usize,
    /// Deepest nesting of a built value (default and at most [`MAX_DEPTH`]).
    pub max_depth: usize,
    /// Called about every 1,000 steps, for hosts that must stay interruptible. It may unwind.
    pub interrupt: Option<fn()>,
    used: u64,
}

impl Budget {
    /// The default budget of one node.
    #[must_use]
    pub fn node() -> Budget {
        Budget {
            node_steps: 1_000_000,
            expr_steps: 100_000,
            bytes: 12 << 20,
            max_string: 1 << 20,
            max_output: 1 << 20,
            max_depth: MAX_DEPTH,
            interrupt: None,
            used: 0,
        }
    }

    /// Steps used so far. Equal for equal expressions and data on every machine.
    #[must_use]
    pub fn used_steps(&self) -> u64 {
        self.used
    }

    /// Steps that the next expression may use.
    pub(super) fn allowance(&self) -> u64 {
        self.expr_steps.min(self.node_steps)
    }

    /// Books the steps of one expression.
    pub(super) fn book(&mut self, steps: u64) {
        self.used = self.used.saturating_add(steps);
        self.node_steps = self.node_steps.saturating_sub(steps);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget::node()
    }
}

//! Looking for a history that goes wrong.

use std::cell::Cell;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::history::{Case, case, run};
use crate::world::Bug;

/// A history that goes wrong, as short as shrinking made it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The history.
    pub case: Case,
    /// How many were tried before one went wrong.
    pub tried: u32,
    /// What makes the same search again.
    pub seed: u64,
}

/// Tries so many histories, which ones the seed says.
#[must_use]
pub fn search(bug: Option<Bug>, histories: u32, seed: u64) -> Option<Found> {
    let config =
        Config { cases: histories, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    // Not all zero, or it stays there.
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let (tried, has_failed) = (Cell::new(0), Cell::new(false));
    let outcome = TestRunner::new_with_rng(config, rng).run(&case(), |case| {
        let result = run(&case, bug).map_err(TestCaseError::fail);
        if !has_failed.get() {
            tried.set(tried.get() + 1);
            has_failed.set(result.is_err());
        }
        result
    });
    match outcome {
        Ok(()) => None,
        Err(TestError::Fail(_, case)) => Some(Found { case, tried: tried.get(), seed }),
        Err(TestError::Abort(reason)) => panic!("the search was given up: {reason}"),
    }
}

//! What becomes of a time that comes while an earlier one is still being worked on.

/// What a schedule does with a time whose predecessor has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The time is left out.
    Skip,
    /// One time waits; further ones are left out.
    QueueOne,
    /// All wait, and run one after the other.
    QueueAll,
    /// Open runs are canceled; the newest time starts when they have ended.
    CancelOther,
    /// Runs may run side by side.
    Allow,
}

/// What lies ahead of a time that has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Runs of the schedule that have not ended.
    pub open: usize,
    /// Times that wait.
    pub waiting: usize,
    /// Whether one that waits does so under `queue_one`.
    pub queued_one: bool,
    /// Whether one that waits does so under `cancel_other`: open runs have been asked to end then.
    pub canceling: bool,
}

/// What is to be done with a time that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start its run.
    Start,
    /// Let it wait.
    Wait,
    /// Ask the open runs to end and let it wait.
    Cancel,
    /// Let it wait in place of the one that waits under the same policy.
    Replace,
    /// Leave it out.
    Skip,
}

impl Overlap {
    /// All policies, in the order in which they are documented.
    pub const ALL: [Self; 5] = [Self::Skip, Self::QueueOne, Self::QueueAll, Self::CancelOther, Self::Allow];

    /// A policy by name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
            Self::QueueAll => "queue_all",
            Self::CancelOther => "cancel_other",
            Self::Allow => "allow",
        }
    }

    /// What becomes of a time with this ahead of it.
    #[must_use]
    pub const fn admit(self, ahead: Ahead) -> Verdict {
        let free = ahead.open == 0 && ahead.waiting == 0;
        match self {
            Self::Allow => Verdict::Start,
            _ if free => Verdict::Start,
            Self::QueueAll => Verdict::Wait,
            Self::QueueOne if !ahead.queued_one => Verdict::Wait,
            Self::CancelOther if ahead.canceling => Verdict::Replace,
            Self::CancelOther => Verdict::Cancel,
            Self::Skip | Self::QueueOne => Verdict::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for policy in Overlap::ALL {
            assert_eq!(Overlap::by_name(policy.name()), Some(policy));
        }
        assert_eq!(Overlap::by_name("Skip"), None);
    }

    #[test]
    fn with_nothing_ahead_every_policy_starts() {
        for policy in Overlap::ALL {
            assert_eq!(policy.admit(Ahead::default()), Verdict::Start, "{policy:?}");
        }
    }

    #[test]
    fn with_a_run_or_a_queue_ahead_policies_differ() {
        use Verdict::{Cancel, Replace, Skip, Start, Wait};
        let open = Ahead { open: 1, ..Ahead::default() };
        let queue = Ahead { waiting: 1, queued_one: true, canceling: true, ..open };
        let verdicts = |ahead| Overlap::ALL.map(|policy| policy.admit(ahead));
        assert_eq!(verdicts(open), [Skip, Wait, Wait, Cancel, Start]);
        assert_eq!(verdicts(queue), [Skip, Skip, Wait, Replace, Start]);
        assert_eq!(verdicts(Ahead { open: 0, ..queue }), [Skip, Skip, Wait, Replace, Start]);
    }
}

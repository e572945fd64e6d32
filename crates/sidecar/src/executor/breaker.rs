//! A circuit breaker: whoever does not answer is left alone for a while, and then asked once.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures one after the other open it.
const STRAIGHT_FAILURES: u32 = 5;
/// So many calls within [`WINDOW`], at least half of them failures, open it too.
const ENOUGH_CALLS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// How long it stays open at first; doubled whenever the call after that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// Not before this moment.
    Later(Instant),
    /// Not before the one that is being made has ended.
    Asking,
}

/// The breaker of one project's calls to one host.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures since the last success.
    straight: u32,
    window: Option<Window>,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    calls: u32,
    failures: u32,
}

#[derive(Debug)]
struct Pause {
    length: Duration,
    until: Instant,
    /// The call that finds out is under way.
    asking: bool,
    /// Another executor found it out.
    heard: bool,
}

impl Breaker {
    /// Whether a call may be made now.
    pub fn admission(&self, now: Instant) -> Admission {
        match &self.pause {
            None => Admission::Open,
            Some(pause) if pause.asking => Admission::Asking,
            Some(pause) if pause.until > now => Admission::Later(pause.until),
            Some(_) => Admission::Open,
        }
    }

    /// A call begins; true if it is the one that finds out.
    pub fn begin(&mut self) -> bool {
        self.pause.as_mut().map(|pause| pause.asking = true).is_some()
    }

    /// Another executor leaves the host alone until then. What this one found out by itself stands.
    pub fn hear(&mut self, until: Instant) {
        match &mut self.pause {
            None => self.pause = Some(Pause { length: FIRST_PAUSE, until, asking: false, heard: true }),
            Some(pause) if pause.heard && !pause.asking => pause.until = pause.until.max(until),
            Some(_) => {}
        }
    }

    /// Until when the host is left alone, if this executor found out that it must be.
    pub fn found_out(&self) -> Option<Instant> {
        self.pause.as_ref().filter(|pause| !pause.heard).map(|pause| pause.until)
    }

    /// The call that was to find out ended without telling anything about the host.
    pub fn abandon(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.asking = false;
        }
    }

    /// A call ended; `asked` if it was the one that finds out. True if this shut or opened the way.
    pub fn end(&mut self, is_answer: bool, asked: bool, now: Instant) -> bool {
        if is_answer {
            self.straight = 0;
            self.count(false, now);
            return self.pause.take().is_some();
        }
        self.straight += 1;
        let failing = self.count(true, now);
        match &mut self.pause {
            // Calls from before the pause end late and say nothing new.
            Some(_) if !asked => false,
            Some(pause) => {
                let length = (pause.length * 2).min(LONGEST_PAUSE);
                *pause = Pause { length, until: now + length, asking: false, heard: false };
                true
            }
            None if failing || self.straight >= STRAIGHT_FAILURES => {
                self.window = None;
                let until = now + FIRST_PAUSE;
                self.pause = Some(Pause { length: FIRST_PAUSE, until, asking: false, heard: false });
                true
            }
            None => false,
        }
    }

    /// Counts a call; true if too many of late were failures.
    fn count(&mut self, is_failure: bool, now: Instant) -> bool {
        let window = self.window.get_or_insert(Window { begun: now, calls: 0, failures: 0 });
        if now - window.begun > WINDOW {
            *window = Window { begun: now, calls: 0, failures: 0 };
        }
        window.calls += 1;
        window.failures += u32::from(is_failure);
        window.calls >= ENOUGH_CALLS && window.failures * 2 >= window.calls
    }

    /// Whether calls are kept back, for now or until one has found out.
    pub fn is_open(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether there is nothing left to remember: nobody has called for a while.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.window.as_ref().is_none_or(|window| now - window.begun > WINDOW)
            && self.pause.as_ref().is_none_or(|pause| !pause.asking && pause.until + WINDOW < now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_asks_once_and_closes() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 1..STRAIGHT_FAILURES {
            assert!(!breaker.end(false, false, now));
        }
        assert_eq!(breaker.admission(now), Admission::Open);
        assert!(breaker.end(false, false, now));
        assert_eq!(breaker.admission(now), Admission::Later(now + FIRST_PAUSE));
        // One that began before ends now.
        assert!(!breaker.end(false, false, now + Duration::from_secs(1)));
        now += FIRST_PAUSE;
        assert_eq!(breaker.admission(now), Admission::Open);
        assert!(breaker.begin());
        assert_eq!(breaker.admission(now), Admission::Asking);
        // Nor does one that ends while the other asks.
        assert!(!breaker.end(false, false, now) && breaker.admission(now) == Admission::Asking);
        assert!(breaker.end(false, true, now));
        assert_eq!(breaker.admission(now), Admission::Later(now + 2 * FIRST_PAUSE));
        now += 2 * FIRST_PAUSE;
        breaker.begin();
        breaker.abandon();
        assert_eq!(breaker.admission(now), Admission::Open);
        breaker.begin();
        assert!(breaker.end(true, true, now));
        assert_eq!(breaker.admission(now), Admission::Open);
        assert!(!breaker.is_open() && !breaker.is_idle(now) && breaker.is_idle(now + 2 * WINDOW));
        assert!(!breaker.begin());
    }

    #[test]
    fn what_another_found_out_is_believed_and_asked_once() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.hear(now + FIRST_PAUSE);
        breaker.hear(now + Duration::from_secs(1));
        assert_eq!(
            (breaker.admission(now), breaker.found_out()),
            (Admission::Later(now + FIRST_PAUSE), None)
        );
        now += FIRST_PAUSE;
        assert!(breaker.begin());
        breaker.hear(now + FIRST_PAUSE);
        assert_eq!(breaker.admission(now), Admission::Asking);
        assert!(breaker.end(false, true, now));
        assert_eq!(breaker.found_out(), Some(now + 2 * FIRST_PAUSE));
        breaker.hear(now + 3 * FIRST_PAUSE);
        assert_eq!(breaker.admission(now), Admission::Later(now + 2 * FIRST_PAUSE));
    }

    #[test]
    fn half_of_the_calls_failing_open_it_and_less_do_not() {
        let now = Instant::now();
        let opened = |answers_per_failure: u32| {
            let mut breaker = Breaker::default();
            (0..200).any(|_| {
                (0..answers_per_failure).for_each(|_| assert!(!breaker.end(true, false, now)));
                breaker.end(false, false, now)
            })
        };
        assert!(opened(1) && !opened(2));
    }

    #[test]
    fn pauses_do_not_grow_without_end() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..STRAIGHT_FAILURES {
            breaker.end(false, false, now);
        }
        for _ in 0..20 {
            let Admission::Later(until) = breaker.admission(now) else { panic!("it is closed") };
            assert!(until - now <= LONGEST_PAUSE);
            now = until;
            breaker.begin();
            breaker.end(false, true, now);
        }
        assert_eq!(breaker.admission(now), Admission::Later(now + LONGEST_PAUSE));
        // Nobody calls any more: it is forgotten all the same.
        assert!(breaker.is_idle(now + LONGEST_PAUSE + 2 * WINDOW));
    }
}

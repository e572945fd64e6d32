//! Which claimed job may start next: a bound over all, a bound per host, turns between hosts and, at one host, between
//! projects; and which jobs are better given back than kept waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Admission, Breaker};

/// `host:port` of a call, lower-case.
pub type HostKey = Arc<str>;

/// What waits for a host longer than this is given back: it would only keep others from being claimed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nothing is given back for a shorter or a longer time.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// How much the latest call counts in the pace of a host.
const LATEST_WEIGHT: f64 = 0.2;

/// Whose call it is, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The project.
    pub project: Arc<str>,
    /// The host it calls.
    pub host: HostKey,
}

/// A call that was started, as [`Queue::ended`] wants it back.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Whose slot it is.
    pub lane: Lane,
    /// Since when.
    pub since: Instant,
}

/// What a call's end says about its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answers.
    Alive,
    /// It does not, or only with its own trouble.
    Trouble,
    /// Nothing.
    None,
}

/// Claimed jobs that have not started, and how many run where. Plain data: it is told the time.
#[derive(Debug)]
pub struct Queue<T> {
    concurrency: usize,
    per_host: usize,
    hosts: HashMap<HostKey, Host<T>>,
    /// Hosts that have a waiting job and room for it, each once, in the order of their turns.
    turns: VecDeque<HostKey>,
    breakers: HashMap<Lane, Breaker>,
    running: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Host<T> {
    running: Vec<Instant>,
    /// Of each project, those that wait.
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    /// Projects that have one, each once, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    has_turn: bool,
    /// How long calls take of late, in seconds.
    pace: f64,
}

impl<T> Default for Host<T> {
    fn default() -> Self {
        Self {
            running: Vec::new(),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            has_turn: false,
            pace: 0.0,
        }
    }
}

impl<T> Host<T> {
    fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// How long a call takes, in seconds: those that are under way count as soon as they are slower than that.
    fn pace(&self, now: Instant) -> f64 {
        let oldest = self.running.iter().min().map_or(Duration::ZERO, |since| now - *since);
        self.pace.max(oldest.as_secs_f64())
    }

    /// The job that came last, of the project that has most.
    fn pop_last(&mut self) -> Option<T> {
        let longest = self.waiting.iter().max_by_key(|(_, jobs)| jobs.len())?.0.clone();
        let jobs = self.waiting.get_mut(&longest)?;
        let job = jobs.pop_back();
        if jobs.is_empty() {
            self.waiting.remove(&longest);
            self.turns.retain(|project| *project != longest);
        }
        job
    }
}

impl<T> Queue<T> {
    /// At most `concurrency` running at once, and `per_host` of one host.
    pub fn new(concurrency: usize, per_host: usize) -> Self {
        Self {
            concurrency,
            per_host,
            hosts: HashMap::new(),
            turns: VecDeque::new(),
            breakers: HashMap::new(),
            running: 0,
            waiting: 0,
        }
    }

    /// Adds a claimed job.
    pub fn push(&mut self, lane: &Lane, job: T) {
        let host = self.hosts.entry(lane.host.clone()).or_default();
        let jobs = host.waiting.entry(lane.project.clone()).or_default();
        if jobs.is_empty() {
            host.turns.push_back(lane.project.clone());
        }
        jobs.push_back(job);
        self.waiting += 1;
        self.give_turn(&lane.host);
    }

    /// Puts a host among those that may start something, if it has something and room for it.
    fn give_turn(&mut self, key: &HostKey) {
        if let Some(host) = self.hosts.get_mut(key)
            && !host.has_turn
            && !host.turns.is_empty()
            && host.running.len() < self.per_host
        {
            host.has_turn = true;
            self.turns.push_back(key.clone());
        }
    }

    /// The next job that may start now; it counts as running from here on, until [`Self::ended`].
    /// Hosts take turns, so that a long queue for one does not keep another waiting, and so do projects.
    pub fn start_next(&mut self, now: Instant) -> Option<(Slot, T)> {
        if self.running >= self.concurrency {
            return None;
        }
        while let Some(key) = self.turns.pop_front() {
            let host = self.hosts.get_mut(&key)?;
            host.has_turn = false;
            let open = |project: &Arc<str>| {
                let lane = Lane { project: project.clone(), host: key.clone() };
                self.breakers.get(&lane).is_none_or(|breaker| breaker.admission(now) == Admission::Open)
            };
            // Where nobody may call, the host has no turn until something changes.
            let Some(place) = host.turns.iter().position(open) else { continue };
            let project = host.turns.remove(place)?;
            let jobs = host.waiting.get_mut(&project)?;
            let job = jobs.pop_front()?;
            if jobs.is_empty() {
                host.waiting.remove(&project);
            } else {
                host.turns.push_back(project.clone());
            }
            host.running.push(now);
            self.running += 1;
            self.waiting -= 1;
            self.give_turn(&key);
            let lane = Lane { project, host: key };
            if let Some(breaker) = self.breakers.get_mut(&lane) {
                breaker.begin();
            }
            return Some((Slot { lane, since: now }, job));
        }
        None
    }

    /// A running job ended. True if calls of its lane are kept back from now on, or no longer.
    pub fn ended(&mut self, slot: &Slot, sign: Sign, now: Instant) -> bool {
        let changed = self.note(&slot.lane, sign, now);
        let Some(host) = self.hosts.get_mut(&slot.lane.host) else {
            return changed;
        };
        if let Some(place) = host.running.iter().position(|since| *since == slot.since) {
            host.running.swap_remove(place);
            self.running -= 1;
        }
        if sign != Sign::None {
            let took = (now - slot.since).as_secs_f64();
            host.pace = if host.pace == 0.0 { took } else { host.pace + LATEST_WEIGHT * (took - host.pace) };
        }
        if host.running.is_empty() && host.turns.is_empty() {
            self.hosts.remove(&slot.lane.host);
        } else {
            self.give_turn(&slot.lane.host);
        }
        changed
    }

    fn note(&mut self, lane: &Lane, sign: Sign, now: Instant) -> bool {
        let breaker = match (sign, self.breakers.get_mut(lane)) {
            (Sign::None, None) | (Sign::Alive, None) => return false,
            (Sign::None, Some(breaker)) => {
                breaker.abandon();
                return false;
            }
            (_, Some(breaker)) => breaker,
            (Sign::Trouble, None) => self.breakers.entry(lane.clone()).or_default(),
        };
        let changed = breaker.end(sign == Sign::Alive, now);
        if breaker.is_idle(now) {
            self.breakers.remove(lane);
        }
        changed
    }

    /// Whether calls of a lane are kept back.
    pub fn is_kept_back(&self, lane: &Lane) -> bool {
        self.breakers.get(lane).is_some_and(Breaker::is_open)
    }

    /// Lanes whose calls are kept back.
    pub fn kept_back(&self) -> usize {
        self.breakers.values().filter(|breaker| breaker.is_open()).count()
    }

    /// Takes out what is better given back, each with how long it is of no use to anybody: what waits for a host that
    /// is left alone, and what waits for one that is too slow to get to it soon.
    pub fn take_hopeless(&mut self, now: Instant) -> Vec<(Duration, T)> {
        let mut out = Vec::new();
        if self.waiting == 0 {
            return out;
        }
        let keys: Vec<HostKey> = self.hosts.keys().cloned().collect();
        for key in keys {
            let Some(host) = self.hosts.get_mut(&key) else { continue };
            for project in host.turns.clone() {
                let lane = Lane { project: project.clone(), host: key.clone() };
                let admission = self.breakers.get(&lane).map(|breaker| breaker.admission(now));
                if let Some(Admission::Later(until)) = admission {
                    let jobs = host.waiting.remove(&project).unwrap_or_default();
                    host.turns.retain(|other| *other != project);
                    out.extend(jobs.into_iter().map(|job| (delay(until - now), job)));
                }
            }
            let (pace, per_host) = (host.pace(now), self.per_host as f64);
            let waiting = host.waiting();
            let soon = PATIENCE.as_secs_f64() * per_host / pace.max(1e-6);
            // Something stays at hand for a slot that comes free.
            let kept = (soon as usize).max(self.per_host.div_ceil(4)).min(waiting);
            let ahead = host.running.len() + kept;
            for place in (0..waiting - kept).rev() {
                let wait = Duration::from_secs_f64((pace * (ahead + place) as f64 / per_host).min(1e6));
                out.extend(host.pop_last().map(|job| (delay(wait), job)));
            }
            if host.running.is_empty() && host.turns.is_empty() {
                self.hosts.remove(&key);
                self.turns.retain(|other| *other != key);
            } else {
                // A pause may be over.
                self.give_turn(&key);
            }
        }
        self.waiting -= out.len();
        self.breakers.retain(|_, breaker| !breaker.is_idle(now));
        out
    }

    /// How many more jobs are worth claiming: as many as could start at once if their hosts are
    /// free. Jobs that wait for a busy host take no slot from others, until as many wait as may run:
    /// then a further claim would only hoard.
    pub fn room(&self) -> usize {
        let free = self.concurrency.saturating_sub(self.running);
        let may_wait = self.concurrency.saturating_sub(self.waiting);
        free.min(may_wait)
    }

    /// Takes out everything that has not started.
    pub fn drain_waiting(&mut self) -> Vec<T> {
        let mut out = Vec::with_capacity(self.waiting);
        for host in self.hosts.values_mut() {
            out.extend(std::mem::take(&mut host.waiting).into_values().flatten());
            host.turns.clear();
            host.has_turn = false;
        }
        self.hosts.retain(|_, host| !host.running.is_empty());
        self.turns.clear();
        self.waiting = 0;
        out
    }

    /// Jobs running.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Jobs claimed but not started.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

/// In whole seconds, so that few statements give many back; they come back a little apart all the same.
fn delay(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs_f64().ceil() as u64).clamp(SHORTEST_DELAY, LONGEST_DELAY)
}

#[cfg(test)]
mod tests;

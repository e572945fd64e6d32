//! Which claimed job may start next: a bound over all, a bound and maybe a rate per host, turns between hosts and, at one
//! host, between projects; and which jobs are better given back than kept waiting.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Admission, Breaker};
use super::pace::Pace;
use crate::egress::hosts::{Hosts, Limits};
use crate::store::{HostPause, Peers};

/// `host:port` of a call, lower-case.
pub type HostKey = Arc<str>;

/// So many wait at hand for a host that may be called now and then only: the next, and one for when that begins.
const AT_HAND: usize = 2;
/// What waits for a host longer than this is given back: it would only keep others from being claimed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nothing is given back for a longer time: a host that is quick again must not be kept waiting.
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// What is given back for a host that is left alone comes back one by one.
const APART: Duration = Duration::from_millis(10);
/// How long whoever asks a host that was left alone is waited for.
const ASKING: Duration = Duration::from_secs(5);
/// A project counts as one that calls for so long after it last did.
const PRESENT: Duration = Duration::from_secs(60);
/// Most hosts that others are told of.
const MAX_TOLD: usize = 1_000;
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
    /// It finds out whether a host that was left alone answers.
    pub asks: bool,
}

/// What a call's end says about its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answers.
    Alive,
    /// It does not.
    Trouble,
    /// Nothing.
    None,
}

/// Claimed jobs that have not started, and how many run where. Plain data: it is told the time.
#[derive(Debug)]
pub struct Queue<T> {
    concurrency: usize,
    /// Of one host, by all executors together, where nothing is set for it.
    per_host: usize,
    /// What is set for single hosts.
    settings: Arc<Hosts>,
    /// How many executors share that.
    executors: usize,
    hosts: HashMap<HostKey, Host<T>>,
    /// Hosts that have a waiting job and room for it, each once, in the order of their turns.
    turns: VecDeque<HostKey>,
    breakers: HashMap<Lane, Breaker>,
    /// Of hosts that may take only so many calls in a time, if one began of late.
    paces: HashMap<HostKey, Pace>,
    /// When hosts may have the next call that lost their turn because it was too early.
    due: BTreeSet<(Instant, HostKey)>,
    /// Until when what was given back for a host keeps it busy.
    parked: HashMap<HostKey, Instant>,
    projects: HashMap<Arc<str>, Presence>,
    running: usize,
    waiting: usize,
}

/// A project that calls.
#[derive(Debug)]
struct Presence {
    running: usize,
    last: Instant,
}

#[derive(Debug)]
struct Host<T> {
    /// Whose calls run, and since when.
    running: Vec<(Arc<str>, Instant)>,
    /// Of each project, those that wait.
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    /// Projects that have one, each once, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    has_turn: bool,
    limits: Limits,
    /// How long calls take of late, in seconds.
    pace: f64,
}

impl<T> Host<T> {
    fn new(limits: Limits) -> Self {
        Self {
            running: Vec::new(),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            has_turn: false,
            limits,
            pace: 0.0,
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// How long a call takes, in seconds: those that are under way count as soon as half of them are slower than that.
    fn pace(&self, now: Instant) -> f64 {
        let mut ages: Vec<Duration> = self.running.iter().map(|(_, since)| now - *since).collect();
        ages.sort_unstable();
        self.pace.max(ages.get(ages.len() / 2).map_or(0.0, Duration::as_secs_f64))
    }

    fn running_of(&self, project: &str) -> usize {
        self.running.iter().filter(|(whose, _)| **whose == *project).count()
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
    /// At most `concurrency` running at once, and `per_host` of one host by all executors together.
    pub fn new(concurrency: usize, per_host: usize) -> Self {
        Self {
            concurrency,
            per_host,
            settings: Arc::default(),
            executors: 1,
            hosts: HashMap::new(),
            turns: VecDeque::new(),
            breakers: HashMap::new(),
            paces: HashMap::new(),
            due: BTreeSet::new(),
            parked: HashMap::new(),
            projects: HashMap::new(),
            running: 0,
            waiting: 0,
        }
    }

    /// Takes note of what is set for single hosts.
    pub fn set_hosts(&mut self, settings: Arc<Hosts>) {
        if Arc::ptr_eq(&self.settings, &settings) {
            return;
        }
        for (key, host) in &mut self.hosts {
            host.limits = settings.limits(key);
        }
        self.settings = settings;
        self.give_turns();
    }

    /// Takes note of who else there is, and of what the others found out.
    pub fn meet(&mut self, peers: &Peers, now: Instant) {
        self.executors = peers.executors.max(1);
        for HostPause { project, host, left } in &peers.pauses {
            let lane = Lane { project: project.clone(), host: host.clone() };
            self.breakers.entry(lane).or_default().hear(now + *left);
        }
    }

    /// The hosts that this executor found out do not answer, and for how long each is left alone.
    pub fn pauses(&self, now: Instant) -> Vec<HostPause> {
        let own = self.breakers.iter().filter_map(|(lane, breaker)| {
            let left = breaker.found_out()?.saturating_duration_since(now);
            let (project, host) = (lane.project.clone(), lane.host.clone());
            (!left.is_zero()).then_some(HostPause { project, host, left })
        });
        own.take(MAX_TOLD).collect()
    }

    /// How many calls to a host this executor may have under way.
    fn slots(&self, limits: Limits) -> usize {
        let together = limits.concurrency.map_or(self.per_host, NonZeroUsize::get);
        together.div_ceil(self.executors).max(1)
    }

    /// The time between two calls to a host that this executor makes, if there must be one.
    fn every(&self, limits: Limits) -> Option<Duration> {
        let executors = u32::try_from(self.executors).unwrap_or(u32::MAX);
        limits.every.map(|every| every.saturating_mul(executors))
    }

    /// Adds a claimed job.
    pub fn push(&mut self, lane: &Lane, job: T) {
        let host = self.hosts.entry(lane.host.clone());
        let host = host.or_insert_with(|| Host::new(self.settings.limits(&lane.host)));
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
        let Some(limits) = self.hosts.get(key).map(|host| host.limits) else { return };
        let slots = self.slots(limits);
        if let Some(host) = self.hosts.get_mut(key)
            && !host.has_turn
            && !host.turns.is_empty()
            && host.running.len() < slots
        {
            host.has_turn = true;
            self.turns.push_back(key.clone());
        }
    }

    fn give_turns(&mut self) {
        let keys: Vec<HostKey> = self.hosts.keys().cloned().collect();
        keys.iter().for_each(|key| self.give_turn(key));
    }

    /// When a host may have its next call that could have it now if it were not too early.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Forgets a host that nothing runs at and nothing waits for, with the turn that it may have: one that comes again
    /// must not have two.
    fn forget_idle(&mut self, key: &HostKey) {
        if let Some(host) = self.hosts.get(key)
            && host.running.is_empty()
            && host.turns.is_empty()
        {
            if host.has_turn {
                self.turns.retain(|other| other != key);
            }
            self.hosts.remove(key);
        }
    }

    /// The next job that may start now; it counts as running from here on, until [`Self::ended`].
    /// Hosts take turns, so that a long queue for one does not keep another waiting, and so do projects. Where several
    /// projects call, none has more than three quarters of all slots, nor of those of one host.
    pub fn start_next(&mut self, now: Instant) -> Option<(Slot, T)> {
        while self.next_due().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.due.pop_first()
        {
            self.give_turn(&key);
        }
        if self.running >= self.concurrency {
            return None;
        }
        while let Some(key) = self.turns.pop_front() {
            let Some(limits) = self.hosts.get(&key).map(|host| host.limits) else { continue };
            let (slots, every) = (self.slots(limits), self.every(limits));
            let Some(host) = self.hosts.get_mut(&key) else { continue };
            host.has_turn = false;
            if host.running.len() >= slots {
                continue;
            }
            let early = every.and_then(|every| Some(self.paces.get(&key)?.next(every, now)));
            if let Some(at) = early.filter(|at| *at > now) {
                self.due.insert((at, key));
                continue;
            }
            let may = |project: &Arc<str>| {
                let lane = Lane { project: project.clone(), host: key.clone() };
                let held = self.projects.get(project).map_or(0, |presence| presence.running);
                let crowded = self.projects.len() > 1;
                let room = held < share(self.concurrency, crowded)
                    && host.running_of(project) < share(slots, crowded);
                room && self
                    .breakers
                    .get(&lane)
                    .is_none_or(|breaker| breaker.admission(now) == Admission::Open)
            };
            // Where nobody may call, the host has no turn until something changes.
            let Some(place) = host.turns.iter().position(may) else { continue };
            let project = host.turns.remove(place)?;
            let jobs = host.waiting.get_mut(&project)?;
            let job = jobs.pop_front()?;
            if jobs.is_empty() {
                host.waiting.remove(&project);
            } else {
                host.turns.push_back(project.clone());
            }
            host.running.push((project.clone(), now));
            self.running += 1;
            self.waiting -= 1;
            if let Some(every) = every {
                self.paces.entry(key.clone()).or_insert_with(|| Pace::new(now)).begin(every, now);
            }
            self.give_turn(&key);
            let presence = self.projects.entry(project.clone()).or_insert(Presence { running: 0, last: now });
            presence.running += 1;
            presence.last = now;
            let lane = Lane { project, host: key };
            let asks = self.breakers.get_mut(&lane).is_some_and(Breaker::begin);
            return Some((Slot { lane, since: now, asks }, job));
        }
        None
    }

    /// A running job ended. True if calls of its lane are kept back from now on, or no longer.
    pub fn ended(&mut self, slot: &Slot, sign: Sign, now: Instant) -> bool {
        let changed = self.note(slot, sign, now);
        let Lane { project, host: key } = &slot.lane;
        let Some(host) = self.hosts.get_mut(key) else {
            return changed;
        };
        let it = |(whose, since): &(Arc<str>, Instant)| whose == project && *since == slot.since;
        if let Some(place) = host.running.iter().position(it) {
            host.running.swap_remove(place);
            self.running -= 1;
            if let Some(presence) = self.projects.get_mut(project) {
                presence.running -= 1;
                presence.last = now;
            }
        }
        if sign != Sign::None {
            let took = (now - slot.since).as_secs_f64();
            host.pace = if host.pace == 0.0 { took } else { host.pace + LATEST_WEIGHT * (took - host.pace) };
        }
        self.give_turn(key);
        self.forget_idle(key);
        changed
    }

    fn note(&mut self, slot: &Slot, sign: Sign, now: Instant) -> bool {
        let breaker = match (sign, self.breakers.get_mut(&slot.lane)) {
            (Sign::None | Sign::Alive, None) => return false,
            (Sign::None, Some(breaker)) => {
                if slot.asks {
                    breaker.abandon();
                }
                return false;
            }
            (_, Some(breaker)) => breaker,
            (Sign::Trouble, None) => self.breakers.entry(slot.lane.clone()).or_default(),
        };
        breaker.end(sign == Sign::Alive, slot.asks, now)
    }

    /// Forgets hosts and projects that nobody has anything to do with any more, and lets those have a turn whose
    /// pause is over. To be called now and then.
    pub fn sweep(&mut self, now: Instant) {
        self.breakers.retain(|_, breaker| !breaker.is_idle(now));
        self.parked.retain(|_, until| *until > now);
        self.projects.retain(|_, presence| presence.running > 0 || now - presence.last < PRESENT);
        self.paces.retain(|_, pace| !pace.is_idle(now));
        self.give_turns();
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
    /// is left alone, and what waits for one that is too slow to get to it soon. The times of one host follow upon each
    /// other and upon those of before, so that a backlog of any length comes back no faster than it can be done.
    pub fn take_hopeless(&mut self, now: Instant) -> Vec<(Duration, T)> {
        let mut out = Vec::new();
        if self.waiting == 0 {
            return out;
        }
        let keys: Vec<HostKey> = self.hosts.keys().cloned().collect();
        for key in keys {
            self.take_kept_back(&key, now, &mut out);
            self.take_late(&key, now, &mut out);
            self.forget_idle(&key);
        }
        self.waiting -= out.len();
        out
    }

    fn take_kept_back(&mut self, key: &HostKey, now: Instant, out: &mut Vec<(Duration, T)>) {
        let Some(host) = self.hosts.get_mut(key) else { return };
        for project in host.turns.clone() {
            let lane = Lane { project, host: key.clone() };
            let until = match self.breakers.get(&lane).map(|breaker| breaker.admission(now)) {
                Some(Admission::Later(until)) => until,
                Some(Admission::Asking) => now + ASKING,
                Some(Admission::Open) | None => continue,
            };
            let parked = self.parked.entry(key.clone()).or_insert(now);
            *parked = until.max(*parked);
            for job in host.waiting.remove(&lane.project).unwrap_or_default() {
                out.push((delay(*parked - now), job));
                *parked += APART;
            }
            host.turns.retain(|other| *other != lane.project);
        }
    }

    fn take_late(&mut self, key: &HostKey, now: Instant, out: &mut Vec<(Duration, T)>) {
        let Some(limits) = self.hosts.get(key).map(|host| host.limits) else { return };
        let (slots, every) = (self.slots(limits), self.every(limits).unwrap_or_default().as_secs_f64());
        // Where many hosts are far from their turns, jobs at hand for each would keep all others from being claimed.
        let is_hoard = self.waiting > self.concurrency / 2 && every > PATIENCE.as_secs_f64();
        let Some(host) = self.hosts.get_mut(key) else { return };
        let (by_pace, waiting) = (host.pace(now) / slots as f64, host.waiting());
        // Something stays at hand for a slot that comes free. Where time is what is short, no slot is waited for.
        let (each, at_hand, running) = match every > by_pace {
            true if is_hoard => (every, 0, 1),
            true => (every, AT_HAND, 0),
            false => (by_pace, slots.div_ceil(4), host.running.len()),
        };
        let soon = (PATIENCE.as_secs_f64() / each.max(1e-9)) as usize;
        let kept = soon.max(at_hand).min(waiting);
        if kept == waiting {
            return;
        }
        let each = Duration::from_secs_f64(each.min(LONGEST_DELAY.as_secs_f64()));
        let ahead = u32::try_from(running + kept).unwrap_or(u32::MAX);
        let parked = self.parked.entry(key.clone()).or_insert(now);
        *parked = (*parked).max(now + each.saturating_mul(ahead).min(LONGEST_DELAY));
        for _ in kept..waiting {
            if let Some(job) = host.pop_last() {
                out.push((delay(*parked - now), job));
                *parked = (*parked + each).min(now + LONGEST_DELAY);
            }
        }
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
        self.due.clear();
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

/// What one project has of so many slots.
fn share(slots: usize, crowded: bool) -> usize {
    if crowded { slots - slots / 4 } else { slots }
}

/// Rounded up, by at most an eighth, so that few statements give many back. The longest are spread: what is given back at
/// once for that long does not come back at once.
fn delay(wait: Duration) -> Duration {
    let seconds = (wait.as_secs_f64().ceil() as u64).max(1);
    let longest = LONGEST_DELAY.as_secs();
    if seconds >= longest {
        return Duration::from_secs(fastrand::u64(longest / 2..=longest));
    }
    let step = (seconds.next_power_of_two() / 16).max(1);
    Duration::from_secs(seconds.next_multiple_of(step).min(longest))
}

#[cfg(test)]
mod tests;

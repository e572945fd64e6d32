//! Which claimed job may start next: a bound over all, a bound per host, and turns between hosts.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// `host:port` of a call, lower-case.
pub type HostKey = Arc<str>;

/// Claimed jobs that have not started, and how many run where. Plain data: no clock, no tasks.
#[derive(Debug)]
pub struct Queue<T> {
    concurrency: usize,
    per_host: usize,
    hosts: HashMap<HostKey, Host<T>>,
    /// Hosts that have a waiting job and room for it, each once, in the order of their turns.
    turns: VecDeque<HostKey>,
    running: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Host<T> {
    running: usize,
    waiting: VecDeque<T>,
    has_turn: bool,
}

impl<T> Queue<T> {
    /// At most `concurrency` running at once, and `per_host` of one host.
    pub fn new(concurrency: usize, per_host: usize) -> Self {
        Self { concurrency, per_host, hosts: HashMap::new(), turns: VecDeque::new(), running: 0, waiting: 0 }
    }

    /// Adds a claimed job.
    pub fn push(&mut self, key: HostKey, job: T) {
        let host = self.hosts.entry(key.clone()).or_insert_with(|| Host {
            running: 0,
            waiting: VecDeque::new(),
            has_turn: false,
        });
        host.waiting.push_back(job);
        self.waiting += 1;
        if !host.has_turn && host.running < self.per_host {
            host.has_turn = true;
            self.turns.push_back(key);
        }
    }

    /// The next job that may start now; it counts as running from here on, until [`Self::ended`].
    /// Hosts take turns, so that a long queue for one does not keep another waiting.
    pub fn start_next(&mut self) -> Option<(HostKey, T)> {
        if self.running >= self.concurrency {
            return None;
        }
        let key = self.turns.pop_front()?;
        let host = self.hosts.get_mut(&key)?;
        host.has_turn = false;
        let job = host.waiting.pop_front()?;
        host.running += 1;
        self.running += 1;
        self.waiting -= 1;
        if !host.waiting.is_empty() && host.running < self.per_host {
            host.has_turn = true;
            self.turns.push_back(key.clone());
        }
        Some((key, job))
    }

    /// A running job of this host ended.
    pub fn ended(&mut self, key: &HostKey) {
        let Some(host) = self.hosts.get_mut(key) else {
            return;
        };
        host.running = host.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        if host.waiting.is_empty() {
            if host.running == 0 {
                self.hosts.remove(key);
            }
        } else if !host.has_turn {
            host.has_turn = true;
            self.turns.push_back(key.clone());
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
            out.extend(host.waiting.drain(..));
            host.has_turn = false;
        }
        self.hosts.retain(|_, host| host.running > 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> HostKey {
        name.into()
    }

    fn started(queue: &mut Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.start_next().map(|(_, job)| job)).collect()
    }

    #[test]
    fn one_host_cannot_take_more_than_its_share() {
        let mut queue = Queue::new(10, 2);
        for job in 0..5 {
            queue.push(key("slow"), job);
        }
        queue.push(key("fast"), 100);
        assert_eq!(started(&mut queue), [0, 100, 1]);
        assert_eq!((queue.running(), queue.waiting()), (3, 3));
        queue.ended(&key("slow"));
        assert_eq!(started(&mut queue), [2]);
        queue.ended(&key("fast"));
        assert_eq!(started(&mut queue), [0u32; 0]);
    }

    #[test]
    fn hosts_take_turns() {
        let mut queue = Queue::new(4, 4);
        for job in 0..3 {
            queue.push(key("a"), job);
            queue.push(key("b"), 10 + job);
        }
        assert_eq!(started(&mut queue), [0, 10, 1, 11]);
        assert_eq!(queue.room(), 0);
        queue.ended(&key("a"));
        queue.ended(&key("a"));
        assert_eq!(started(&mut queue), [2, 12]);
    }

    #[test]
    fn waiting_jobs_take_no_slot_until_they_are_a_hoard() {
        let mut queue = Queue::new(4, 1);
        for job in 0..4 {
            queue.push(key("slow"), job);
        }
        started(&mut queue);
        assert_eq!((queue.running(), queue.waiting(), queue.room()), (1, 3, 1));
        queue.push(key("slow"), 4);
        assert_eq!(queue.room(), 0);
        assert_eq!(queue.drain_waiting().len(), 4);
        assert_eq!((queue.running(), queue.waiting(), queue.room()), (1, 0, 3));
        queue.ended(&key("slow"));
        assert!(queue.hosts.is_empty());
    }

    #[test]
    fn never_forgets_and_never_exceeds() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut queue = Queue::new(7, 3);
        let mut running: Vec<HostKey> = Vec::new();
        let (mut pushed, mut done) = (0, 0);
        for _ in 0..20_000 {
            match rng.u8(0..3) {
                0 => {
                    queue.push(key(&format!("h{}", rng.u8(0..5))), pushed);
                    pushed += 1;
                }
                1 => running.extend(queue.start_next().map(|(key, _)| key)),
                _ if !running.is_empty() => {
                    let key = running.swap_remove(rng.usize(0..running.len()));
                    queue.ended(&key);
                    done += 1;
                }
                _ => {}
            }
            assert!(running.len() <= 7 && queue.running() == running.len());
            for host in 0..5 {
                let name = format!("h{host}");
                assert!(running.iter().filter(|key| ***key == *name).count() <= 3);
            }
        }
        while let Some((key, _)) = queue.start_next() {
            queue.ended(&key);
            done += 1;
        }
        for key in running {
            queue.ended(&key);
            done += 1;
            while let Some((key, _)) = queue.start_next() {
                queue.ended(&key);
                done += 1;
            }
        }
        assert_eq!(done, pushed);
        assert!(queue.hosts.is_empty() && queue.turns.is_empty());
    }
}

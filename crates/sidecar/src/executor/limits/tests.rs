use super::*;
use crate::egress::hosts::tests::hosts;

fn lane(project: &str, host: &str) -> Lane {
    Lane { project: project.into(), host: host.into() }
}

fn at(host: &str) -> Lane {
    lane("p", host)
}

fn slot(host: &str, since: Instant) -> Slot {
    Slot { lane: at(host), since, asks: false }
}

fn entries(of: &[(&str, &str)]) -> Arc<Hosts> {
    let entry = |(host, line): &(&str, &str)| format!("[[hosts]]\nmatch = \"{host}\"\n{line}\n");
    hosts(&of.iter().map(entry).collect::<String>()).unwrap().into()
}

fn started(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
    std::iter::from_fn(|| queue.start_next(now).map(|(_, job)| job)).collect()
}

#[test]
fn one_host_cannot_take_more_than_its_share() {
    let (mut queue, now) = (Queue::new(10, 2), Instant::now());
    for job in 0..5 {
        queue.push(&at("slow"), job);
    }
    queue.push(&at("fast"), 100);
    assert_eq!(started(&mut queue, now), [0, 100, 1]);
    assert_eq!((queue.running(), queue.waiting()), (3, 3));
    queue.ended(&slot("slow", now), Sign::Alive, now);
    assert_eq!(started(&mut queue, now), [2]);
    queue.ended(&slot("fast", now), Sign::Alive, now);
    assert_eq!(started(&mut queue, now), [0u32; 0]);
}

#[test]
fn hosts_and_projects_take_turns() {
    let (mut queue, now) = (Queue::new(6, 6), Instant::now());
    for job in 0..3 {
        queue.push(&at("a"), job);
        queue.push(&at("b"), 10 + job);
    }
    queue.push(&lane("other", "a"), 20);
    assert_eq!(started(&mut queue, now), [0, 10, 20, 11, 1, 12]);
    assert_eq!(queue.room(), 0);
    queue.ended(&slot("a", now), Sign::Alive, now);
    assert_eq!(started(&mut queue, now), [2]);
}

#[test]
fn waiting_jobs_take_no_slot_until_they_are_a_hoard() {
    let (mut queue, now) = (Queue::new(4, 1), Instant::now());
    for job in 0..4 {
        queue.push(&at("slow"), job);
    }
    started(&mut queue, now);
    assert_eq!((queue.running(), queue.waiting(), queue.room()), (1, 3, 1));
    queue.push(&at("slow"), 4);
    assert_eq!(queue.room(), 0);
    assert_eq!(queue.drain_waiting().len(), 4);
    assert_eq!((queue.running(), queue.waiting(), queue.room()), (1, 0, 3));
    queue.ended(&slot("slow", now), Sign::Alive, now);
    assert!(queue.hosts.is_empty());
}

#[test]
fn what_a_slow_host_will_not_get_to_is_given_back_for_as_long_as_it_takes() {
    let (mut queue, now) = (Queue::new(100, 4), Instant::now());
    let claim = |queue: &mut Queue<u32>, count: u32| (0..count).for_each(|job| queue.push(&at("slow"), job));
    claim(&mut queue, 41);
    assert_eq!(started(&mut queue, now).len(), 4);
    // Nobody knows yet that it is slow.
    assert!(queue.take_hopeless(now).is_empty());
    let later = now + Duration::from_millis(1_400);
    let back = queue.take_hopeless(later);
    // Two for the next slot that comes free; the others come back when they would have had their turn.
    assert_eq!((queue.waiting(), back.len()), (2, 35));
    let delays: Vec<u64> = back.iter().map(|(delay, _)| delay.as_secs()).collect();
    assert!(delays.is_sorted() && delays[0] == 3 && (14..=15).contains(&delays[34]), "{delays:?}");
    assert!(queue.take_hopeless(later).is_empty());
    // What is claimed after them comes back after them.
    claim(&mut queue, 5);
    let back = queue.take_hopeless(later);
    assert!(back.len() == 5 && (15..=16).contains(&back[0].0.as_secs()), "{back:?}");
    // And nothing is away for long: the host may be quick again.
    for _ in 0..100 {
        claim(&mut queue, 41);
        assert!(queue.take_hopeless(later).iter().all(|(delay, _)| *delay <= LONGEST_DELAY));
    }
}

#[test]
fn one_call_that_hangs_does_not_make_a_host_slow() {
    let (mut queue, now) = (Queue::new(100, 4), Instant::now());
    queue.push(&at("host"), 0);
    started(&mut queue, now);
    let later = now + Duration::from_secs(60);
    (1..40).for_each(|job| queue.push(&at("host"), job));
    started(&mut queue, later);
    assert!(queue.take_hopeless(later).is_empty());
}

#[test]
fn where_several_projects_call_none_has_everything() {
    let (mut queue, now) = (Queue::new(8, 8), Instant::now());
    (0..8).for_each(|job| queue.push(&lane("greedy", &format!("h{job}")), job));
    assert_eq!(started(&mut queue, now).len(), 8, "nobody else is there");
    let (mut queue, now) = (Queue::new(8, 4), now);
    queue.push(&lane("other", "h"), 100);
    assert_eq!(started(&mut queue, now), [100]);
    (0..8).for_each(|job| queue.push(&lane("greedy", "h"), job));
    assert_eq!(started(&mut queue, now).len(), 3, "of four at that host");
    (8..20).for_each(|job| queue.push(&lane("greedy", &format!("h{job}")), job));
    assert_eq!(started(&mut queue, now).len(), 3, "of eight in all");
    queue.push(&lane("other", "h2"), 101);
    assert_eq!(started(&mut queue, now), [101]);
    // It is long gone: what it left free is free.
    let slot = |host: &str| Slot { lane: lane("other", host), since: now, asks: false };
    queue.ended(&slot("h"), Sign::Alive, now);
    queue.ended(&slot("h2"), Sign::Alive, now);
    let later = now + 2 * PRESENT;
    queue.sweep(later);
    assert_eq!(started(&mut queue, later).len(), 2);
}

#[test]
fn what_a_quick_host_gets_to_stays() {
    let (mut queue, now) = (Queue::new(256, 16), Instant::now());
    for job in 0..200 {
        queue.push(&at("quick"), job);
    }
    started(&mut queue, now);
    let soon = now + Duration::from_millis(5);
    queue.ended(&slot("quick", now), Sign::Alive, soon);
    assert!(queue.take_hopeless(soon).is_empty());
}

#[test]
fn a_host_that_does_not_answer_is_left_alone_by_that_project() {
    let (mut queue, mut now) = (Queue::new(100, 10), Instant::now());
    for job in 0..8 {
        queue.push(&at("down"), job);
    }
    for _ in 0..5 {
        let (slot, _) = queue.start_next(now).unwrap();
        let opened = queue.ended(&slot, Sign::Trouble, now);
        assert_eq!(opened, queue.is_kept_back(&slot.lane));
    }
    queue.push(&lane("other", "down"), 100);
    assert_eq!((started(&mut queue, now), queue.kept_back()), (vec![100], 1));
    let back = queue.take_hopeless(now);
    assert_eq!((back.len(), queue.waiting()), (3, 0));
    now += back[0].0;
    // One asks; the others wait elsewhere for what it hears.
    for job in [6, 7] {
        queue.push(&at("down"), job);
    }
    let (asking, _) = queue.start_next(now).unwrap();
    assert!(asking.asks && queue.start_next(now).is_none());
    assert_eq!((queue.take_hopeless(now).len(), queue.waiting()), (1, 0));
    assert!(queue.ended(&asking, Sign::Alive, now));
    queue.push(&at("down"), 7);
    assert_eq!(started(&mut queue, now), [7]);
    // Whatever nobody calls any more is forgotten.
    queue.sweep(now + Duration::from_secs(3_600));
    assert!(queue.breakers.is_empty() && queue.parked.is_empty());
}

#[test]
fn never_forgets_and_never_exceeds() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut queue, mut now) = (Queue::new(7, 3), Instant::now());
    queue.set_hosts(entries(&[("h1", "rate = \"10/s\""), ("h2", "concurrency = 1")]));
    let mut last = now - Duration::from_secs(1);
    let mut running: Vec<Slot> = Vec::new();
    let (mut pushed, mut done, mut given_back) = (0, 0, 0);
    for _ in 0..50_000 {
        now += Duration::from_millis(rng.u64(0..20));
        match rng.u8(0..8) {
            7 => queue.sweep(now),
            0 | 1 => {
                queue.push(&lane(&format!("p{}", rng.u8(0..3)), &format!("h{}:80", rng.u8(0..5))), pushed);
                pushed += 1;
            }
            2 | 3 => {
                let slot = queue.start_next(now).map(|(slot, _)| slot);
                if slot.as_ref().is_some_and(|slot| &*slot.lane.host == "h1:80") {
                    assert!(now - std::mem::replace(&mut last, now) >= Duration::from_millis(100));
                }
                running.extend(slot);
            }
            4 => given_back += queue.take_hopeless(now).len(),
            _ if !running.is_empty() => {
                let slot = running.swap_remove(rng.usize(0..running.len()));
                queue.ended(&slot, [Sign::Alive, Sign::Trouble, Sign::None][rng.usize(0..3)], now);
                done += 1;
            }
            _ => {}
        }
        assert!(running.len() <= 7 && queue.running() == running.len());
        assert_eq!(pushed, done + running.len() + queue.waiting() + given_back);
        for host in 0..5 {
            let name = format!("h{host}:80");
            let most = if host == 2 { 1 } else { 3 };
            assert!(running.iter().filter(|slot| *slot.lane.host == *name).count() <= most);
        }
    }
    for slot in running {
        queue.ended(&slot, Sign::Alive, now);
    }
    // Whatever is kept back is given back or started in the end.
    while queue.waiting() > 0 {
        now += Duration::from_secs(1);
        queue.take_hopeless(now);
        queue.sweep(now);
        while let Some((slot, _)) = queue.start_next(now) {
            queue.ended(&slot, Sign::Alive, now);
        }
    }
    queue.sweep(now + Duration::from_secs(1));
    assert!(queue.hosts.is_empty() && queue.turns.is_empty() && queue.paces.is_empty());
    assert!(given_back > 0);
}

#[test]
fn executors_share_what_a_host_may_get_and_what_they_found_out() {
    let (mut queue, now) = (Queue::new(20, 8), Instant::now());
    for job in 0..6 {
        queue.push(&at("h"), job);
    }
    let heard = HostPause { project: "p".into(), host: "away".into(), left: Duration::from_secs(3) };
    queue.meet(&Peers { executors: 2, pauses: vec![heard] }, now);
    assert_eq!(started(&mut queue, now), [0, 1, 2, 3]);
    queue.push(&at("away"), 10);
    queue.push(&lane("other", "away"), 11);
    assert_eq!(started(&mut queue, now), [11]);
    assert_eq!(queue.take_hopeless(now).into_iter().map(|(_, job)| job).collect::<Vec<_>>(), [10]);
    assert!(queue.pauses(now).is_empty(), "what was heard is not told again");
    for _ in 0..5 {
        queue.ended(&slot("dead", now), Sign::Trouble, now);
    }
    let told = queue.pauses(now);
    assert_eq!((told.len(), &*told[0].host, told[0].left), (1, "dead", Duration::from_secs(5)));
    queue.meet(&Peers { executors: 1, pauses: Vec::new() }, now);
    queue.sweep(now);
    assert_eq!(started(&mut queue, now), [4, 5]);
}

#[test]
fn a_host_has_the_slots_that_are_set_for_it() {
    let (mut queue, now) = (Queue::new(100, 2), Instant::now());
    queue.set_hosts(entries(&[("wide", "concurrency = 6"), ("narrow", "concurrency = 1")]));
    for job in 0..10 {
        queue.push(&at("wide:80"), job);
        queue.push(&at("narrow:80"), 10 + job);
        queue.push(&at("other:80"), 20 + job);
    }
    let of = |jobs: &[u32], tens: u32| jobs.iter().filter(|job| **job / 10 == tens).count();
    let jobs = started(&mut queue, now);
    assert_eq!([0, 1, 2].map(|tens| of(&jobs, tens)), [6, 1, 2]);
    // What is set anew holds for those that wait.
    queue.set_hosts(entries(&[("narrow", "concurrency = 3")]));
    let jobs = started(&mut queue, now);
    assert_eq!([0, 1, 2].map(|tens| of(&jobs, tens)), [0, 2, 0]);
    // Executors share it.
    queue.meet(&Peers { executors: 2, pauses: Vec::new() }, now);
    queue.set_hosts(entries(&[("narrow", "concurrency = 8")]));
    assert_eq!(started(&mut queue, now).len(), 1);
}

#[test]
fn a_host_with_a_rate_is_called_evenly_and_what_waits_longer_is_given_back() {
    let (mut queue, begin) = (Queue::new(100, 50), Instant::now());
    queue.set_hosts(entries(&[("paced", "rate = \"2/s\"")]));
    let ms = Duration::from_millis;
    for job in 0..12 {
        queue.push(&at("paced:80"), job);
    }
    assert_eq!(started(&mut queue, begin), [0]);
    assert_eq!(queue.next_due(), Some(begin + ms(500)));
    // Another host is not held up.
    queue.push(&at("other:80"), 100);
    assert_eq!(started(&mut queue, begin), [100]);
    let back = queue.take_hopeless(begin);
    let delays: Vec<u64> = back.iter().map(|(delay, _)| delay.as_secs()).collect();
    assert_eq!((queue.waiting(), back.len()), (2, 9));
    assert!(delays.is_sorted() && delays[0] == 1 && (4..=6).contains(&delays[8]), "{delays:?}");
    assert!(started(&mut queue, begin + ms(499)).is_empty());
    assert_eq!(started(&mut queue, begin + ms(500)), [1]);
    // Two executors have half of it each, and a call that ends changes nothing.
    queue.meet(&Peers { executors: 2, pauses: Vec::new() }, begin);
    queue.ended(&slot("paced:80", begin), Sign::Alive, begin + ms(510));
    assert!(started(&mut queue, begin + ms(999)).is_empty());
    assert_eq!(started(&mut queue, begin + ms(1000)), [2]);
    queue.push(&at("paced:80"), 12);
    assert!(started(&mut queue, begin + ms(1999)).is_empty());
    assert_eq!(queue.next_due(), Some(begin + ms(2000)));
    assert_eq!(started(&mut queue, begin + ms(2000)), [12]);
    // Nothing is saved up.
    let later = begin + Duration::from_secs(60);
    queue.sweep(later);
    assert!(queue.paces.is_empty() && queue.next_due().is_none());
    for job in 0..3 {
        queue.push(&at("paced:80"), job);
    }
    assert_eq!(started(&mut queue, later), [0]);
    assert_eq!(queue.drain_waiting().len(), 2);
    assert!(queue.next_due().is_none());
}

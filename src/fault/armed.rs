//! What is done at a point: three files in the data directory say it.
//!
//! * `meshhook_fault`, `<point> <n> <database>`: the process that reaches the point for the nth time in that database
//!   kills itself, once, and takes the server down with it.
//! * `meshhook_reached`: where it exists, each point that is reached is appended to it, with the database.
//! * `meshhook_bug`: the name of the bug that is planted (see `bugs`).

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;

use pgrx::{pg_guard, pg_sys};

const ARMED: &str = "meshhook_fault";
const REACHED: &str = "meshhook_reached";
const SIGKILL: i32 = 9;

unsafe extern "C" {
    fn raise(signal: i32) -> i32;
}

/// Lies around a write; its end is the point behind it, unless that failed.
#[derive(Debug)]
pub struct Passage(&'static str);

impl Passage {
    /// Passes the point before the write.
    pub fn begin(site: &'static str) -> Self {
        reach(site, "before");
        Self(site)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            reach(self.0, "after");
        }
    }
}

fn reach(site: &str, side: &str) {
    // SAFETY: a plain global of this process.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if let Ok(mut reached) = fs::OpenOptions::new().append(true).open(REACHED) {
        // One write a line: processes share the file.
        let _ = reached.write_all(format!("{database} {site}.{side}\n").as_bytes());
    }
    let Ok(order) = fs::read_to_string(ARMED) else { return };
    let mut words = order.split_whitespace();
    let (point, left, meant) = (words.next(), words.next(), words.next());
    if point.and_then(|point| point.strip_prefix(site)?.strip_prefix('.')) != Some(side)
        || meant != Some(&*database.to_string())
    {
        return;
    }
    match left.and_then(|left| left.parse::<u32>().ok()) {
        Some(left) if left > 1 => {
            let next = format!("{ARMED}.next");
            let counted = fs::write(&next, format!("{site}.{side} {} {database}", left - 1));
            let _ = counted.and_then(|()| fs::rename(&next, ARMED));
        }
        // The file goes first, so that the server that comes back passes by.
        _ => {
            if fs::remove_file(ARMED).is_ok() {
                // SAFETY: ends this process on the spot.
                unsafe { raise(SIGKILL) };
            }
        }
    }
}

thread_local! {
    /// The names of the transaction's commit; none until the callback is registered.
    static COMMITS: RefCell<Option<Vec<&'static str>>> = const { RefCell::new(None) };
}

/// Names the commit of the transaction under way.
pub fn commits(site: &'static str) {
    COMMITS.with_borrow_mut(|commits| {
        let commits = commits.get_or_insert_with(|| {
            // SAFETY: the callback is a static function and stays for the life of the process.
            unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
            Vec::new()
        });
        if !commits.contains(&site) {
            commits.push(site);
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    let names = |keep: bool| {
        COMMITS.with_borrow_mut(|commits| {
            let commits = commits.get_or_insert_default();
            if keep { commits.clone() } else { std::mem::take(commits) }
        })
    };
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => {
            names(true).into_iter().for_each(|site| reach(site, "before"));
        }
        // Durable, and nobody has been told yet.
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            names(false).into_iter().for_each(|site| reach(site, "after"))
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => drop(names(false)),
        _ => {}
    }
}

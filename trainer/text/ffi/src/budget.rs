//! Runs untrusted work within a budget of memory, stack and time. Fuel bounds the steps of a chat template, not what one
//! step costs: `{% set s = s ~ s %}` forty times asks for a terabyte. Rust cannot unwind out of a failed allocation, so
//! the work runs on a thread of its own, and the allocator parks that thread for good once it is over the budget. What
//! it holds by then is lost, at most the budget; the caller gets an error and the process lives on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, RecvTimeoutError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub struct Budget {
    pub memory_bytes: usize,
    pub stack_bytes: usize,
    pub time: Duration,
}

struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

thread_local! {
    // Null on every thread that has no budget.
    static STOP: Cell<*const AtomicBool> = const { Cell::new(std::ptr::null()) };
    static LEFT_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// Takes `bytes` from the budget of this thread; negative gives back.
fn charge(bytes: isize) {
    let stop = STOP.get();
    if stop.is_null() {
        return;
    }
    LEFT_BYTES.set(LEFT_BYTES.get().saturating_sub(bytes));
    // SAFETY: `run_within` keeps the flag alive for as long as this thread points to it.
    let stop = unsafe { &*stop };
    if LEFT_BYTES.get() < 0 {
        stop.store(true, Ordering::Release);
    }
    while stop.load(Ordering::Acquire) {
        thread::park();
    }
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size() as isize);
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size() as isize);
        System.alloc_zeroed(layout)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout);
        charge(-(layout.size() as isize));
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        charge(new_size as isize - layout.size() as isize);
        System.realloc(pointer, layout, new_size)
    }
}

/// The result of `work`, or what came of it instead: "ran out of ..." or the words of its panic.
pub fn run_within<T: Send + 'static>(budget: &Budget, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = sync_channel(1);
    let (flag, memory_bytes) = (Arc::clone(&stop), budget.memory_bytes as isize);
    let worker = thread::Builder::new().stack_size(budget.stack_bytes).spawn(move || {
        LEFT_BYTES.set(memory_bytes);
        STOP.set(Arc::as_ptr(&flag));
        let result = work();
        STOP.set(std::ptr::null());
        let _ = sender.send(result); // nobody listens once the time is over
    });
    let worker = worker.map_err(|error| format!("got no thread: {error}"))?;

    let deadline = Instant::now() + budget.time;
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(result) => {
                let _ = worker.join();
                return Ok(result);
            }
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(panic) => return Err(crate::panic_text(panic.as_ref())),
                Ok(()) => unreachable!("the worker sends before it ends"),
            },
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Acquire) => {
                return Err("ran out of memory".to_owned())
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                stop.store(true, Ordering::Release);
                return Err("ran out of time".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

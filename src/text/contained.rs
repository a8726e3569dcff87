//! Other people's code on other people's files: a panic there is an error here.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread will be caught and is not to be reported as one.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What `work` returns, or the message of its panic, which nothing else reports. For code that
/// states no conditions on its input yet has some: what it was working on must not be used after a
/// panic, unless it stays as it was.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                before(info);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    done.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a failure without a message").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_others_stay_panics() {
        assert_eq!(contained(|| 7), Ok(7));
        let index = std::hint::black_box(3);
        assert_eq!(
            contained(|| [1, 2][index]),
            Err("index out of bounds: the len is 2 but the index is 3".into())
        );
        assert_eq!(contained(|| contained::<()>(|| panic!("inner")).is_err()), Ok(true));
        assert!(!INSIDE.get());
    }
}

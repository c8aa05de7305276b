//! The lock of a mailbox: an ordinary one, or, for the test that tries its threads in many orders
//! (`--features shuttle`), one whose every step is chosen by that test.

#[cfg(feature = "shuttle")]
pub(crate) use chosen::Mutex;
#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::Mutex;

#[cfg(feature = "shuttle")]
mod chosen {
    use std::sync::PoisonError;

    /// Looks like the ordinary one.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

//! Bytes as a source of choices: what is grown from them changes with each byte, so that a fuzzer
//! can steer it. When they are used up, every choice is the first.

/// A walk over bytes, each of which decides something.
#[derive(Clone, Debug)]
pub struct Choices<'b> {
    bytes: &'b [u8],
}

impl<'b> Choices<'b> {
    /// Choices that `bytes` make.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left to choose.
    pub fn is_used_up(&self) -> bool {
        self.bytes.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// A number below `count`, which is at least 1 and at most 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// One of `options`, of which there is at least one.
    pub fn one_of<'o, T>(&mut self, options: &'o [T]) -> &'o T {
        &options[self.below(options.len())]
    }

    /// True about once in `count` times, and never when the bytes are used up.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) + 1 == count
    }
}

//! Has the linker fold functions of the same machine code into one: much of what generics become is
//! that, and the release is smaller by it.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Where Rust links with LLD unless told otherwise; other linkers need not know the flag.
    let is_lld = env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu");
    if is_lld && env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}

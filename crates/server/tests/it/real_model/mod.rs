//! The real binary with the real model and the shipped vectors, over HTTP on loopback.

mod canary;
mod company;
mod process;
mod storm;
mod swaps;

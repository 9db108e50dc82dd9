//! What is done while a device works: when, how often, and on which thread.

use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::gpu::ranks::Ranks;
use crate::gpu::stub::{Asked, StubOps};
use crate::sampling::Ask;
use crate::testing::{
    RandomWeights, random_llama, random_llama_into, random_llama_on_ranks, tiny_config,
};
use crate::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch};

const FORM: RandomWeights = RandomWeights::Dense(DType::F32);

/// The next `len` tokens of one sequence.
fn step(
    llama: &Llama,
    cache: &mut KvCache,
    (first, len): (usize, usize),
    meanwhile: &mut dyn FnMut(),
) -> Result<()> {
    let batch = PackedBatch {
        token_ids: vec![7; len],
        positions: (first..first + len).collect(),
        cu_seqlens: vec![0, len],
        block_tables: vec![vec![0, 1, 2, 3]],
        logit_rows: vec![len - 1],
    };
    llama.step(&batch, cache, &mut Hooks::none(), &[Ask::Greedy], meanwhile).map(|_| ())
}

fn cache(llama: &Llama) -> KvCache {
    KvCache::new(llama, 4, 8, KvCacheDtype::F32).unwrap()
}

/// What was asked of a device, and `None` for what is done meanwhile; the same in a row counts once.
type Log = Arc<Mutex<Vec<Option<Asked>>>>;

fn note(log: &Log, what: Option<Asked>) {
    let mut log = log.lock().unwrap();
    if log.last() != Some(&what) || what.is_none() {
        log.push(what);
    }
}

/// The log of a prompt and of a single token after it, the latter failing where it asks for `failing`.
fn logs_of_steps(failing: Option<Asked>) -> [Vec<Option<Asked>>; 2] {
    let log = Log::default();
    let fails = Arc::new(Mutex::new(None));
    let told = {
        let (log, fails) = (log.clone(), fails.clone());
        move |asked| {
            note(&log, Some(asked));
            match *fails.lock().unwrap() == Some(asked) {
                true => Err(Error::Request("as the test wants it".to_owned())),
                false => Ok(()),
            }
        }
    };
    let ranks = Ranks::one(Box::new(StubOps::new(told)));
    let llama = random_llama_into(tiny_config(), 7, FORM, ranks).unwrap();
    let mut cache = cache(&llama);
    log.lock().unwrap().clear();
    let mut of_step = |rows| {
        let result = step(&llama, &mut cache, rows, &mut || note(&log, None));
        (result, std::mem::take(&mut *log.lock().unwrap()))
    };
    let (prompt, of_prompt) = of_step((0, 20));
    prompt.unwrap();
    *fails.lock().unwrap() = failing;
    let (token, of_token) = of_step((20, 1));
    assert_eq!(token.is_err(), failing.is_some());
    [of_prompt, of_token]
}

#[test]
fn it_is_done_once_a_step_after_the_last_operation_and_before_results_are_waited_for() {
    use Asked::{Input, Operation, Results};
    let whole = [Some(Input), Some(Operation), None, Some(Results)];
    assert_eq!(logs_of_steps(None), [whole; 2]);
    for (failing, so_far) in [(Input, 1), (Operation, 2), (Results, 4)] {
        let [_, of_token] = logs_of_steps(Some(failing));
        assert_eq!(of_token, whole[..so_far], "{failing:?} fails");
    }
}

#[test]
fn it_is_done_once_on_the_caller_s_thread_whatever_runs_the_pass() {
    let ranks = |num_ranks| random_llama_on_ranks(tiny_config(), 7, FORM, num_ranks).unwrap();
    for llama in [random_llama(tiny_config(), 7, FORM).unwrap(), ranks(1), ranks(2)] {
        let mut cache = cache(&llama);
        for rows in [(0, 20), (20, 1)] {
            let mut threads = Vec::new();
            step(&llama, &mut cache, rows, &mut || threads.push(thread::current().id())).unwrap();
            assert_eq!(threads, [thread::current().id()]);
        }
    }
}

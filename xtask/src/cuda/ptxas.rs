//! What `ptxas -v` says of each kernel.
//!
//! Its words are not specified; they are those of CUDA 12.8 to 13.0. A line of numbers that cannot be read is an error, so that
//! a new wording is noticed.

use anyhow::{Context, Result};

/// What begins a line of the report.
const INFO: &str = "ptxas info    : ";

/// What one function takes of a multiprocessor, by the compiler's count. Bytes, but for registers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Usage {
    /// As it is linked: mangled, unless it is `extern "C"`.
    pub(super) name: String,
    /// A thread's; `None` of a function that kernels call, whose registers count as theirs.
    pub(super) registers: Option<u32>,
    /// A thread's memory for variables that stand in no register.
    pub(super) stack: u32,
    pub(super) spill_stores: u32,
    pub(super) spill_loads: u32,
    /// A block's, without what a launch asks for.
    pub(super) shared: u32,
}

impl Usage {
    /// Whether registers did not suffice.
    pub(super) fn spills(&self) -> bool {
        self.spill_stores > 0 || self.spill_loads > 0
    }
}

/// Every function of a report, by name. Other lines, such as the compiler's warnings, are passed over.
///
/// # Errors
/// When a line of the report has no number where one is expected, or belongs to no function.
pub(super) fn parse(report: &str) -> Result<Vec<Usage>> {
    let mut found: Vec<Usage> = Vec::new();
    let mut kernel = None;
    for line in report.lines() {
        let understood = read_line(line, &mut kernel, &mut found);
        understood.with_context(|| format!("ptxas says what is not understood here: {line}"))?;
    }
    found.sort();
    Ok(found)
}

/// One line; `None` where it cannot be read. `kernel` is the name of the last kernel that was begun.
fn read_line(line: &str, kernel: &mut Option<String>, found: &mut Vec<Usage>) -> Option<()> {
    if let Some(rest) = info(line, "Compiling entry function '") {
        *kernel = Some(rest.split_once('\'')?.0.to_owned());
    } else if let Some(name) = info(line, "Function properties for ") {
        found.push(Usage { name: name.trim().to_owned(), ..Usage::default() });
    } else if line.contains(" bytes stack frame") {
        let usage = found.last_mut()?;
        usage.stack = before(line, " bytes stack frame")?;
        usage.spill_stores = before(line, " bytes spill stores")?;
        usage.spill_loads = before(line, " bytes spill loads")?;
    } else if let Some(used) = info(line, "Used ") {
        let name = kernel.as_ref()?;
        let usage = found.iter_mut().rfind(|usage| usage.name == *name)?;
        usage.registers = Some(before(used, " registers")?);
        let shared = used.split(',').find(|part| part.trim_end().ends_with(" bytes smem"));
        usage.shared = shared.map_or(Some(0), |part| before(part, " bytes smem"))?;
    }
    Some(())
}

fn info<'a>(line: &'a str, what: &str) -> Option<&'a str> {
    line.strip_prefix(INFO)?.strip_prefix(what)
}

/// The number before a unit.
fn before(text: &str, unit: &str) -> Option<u32> {
    let (number, _) = text.split_once(unit)?;
    number.rsplit([' ', ',']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ptxas 13.0.88 for `sm_90`: a kernel that spills, one that calls a function, that function, two of one template.
    const REPORT: &str = "\
toy.cu(12): warning #177-D: variable \"unused\" was declared but never referenced

ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spills' for 'sm_90'
ptxas info    : Function properties for spills
    224 bytes stack frame, 248 bytes spill stores, 248 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 224 bytes cumulative stack size
ptxas info    : Compile time = 13.411 ms
ptxas info    : Compiling entry function 'uses_helper' for 'sm_90'
ptxas info    : Function properties for uses_helper
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 21 registers, used 0 barriers, 32 bytes cumulative stack size
ptxas info    : Compile time = 2.708 ms
ptxas info    : Function properties for _Z6helperPfi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_Z5scaleI13__nv_bfloat16Li128EEvPT_f' for 'sm_90'
ptxas info    : Function properties for _Z5scaleI13__nv_bfloat16Li128EEvPT_f
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 9 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compile time = 1.176 ms
ptxas info    : Compiling entry function '_Z5scaleIfLi32EEvPT_f' for 'sm_90'
ptxas info    : Function properties for _Z5scaleIfLi32EEvPT_f
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 128 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 3.644 ms
";

    fn usage(name: &str, registers: Option<u32>, rest: [u32; 4]) -> Usage {
        let [stack, spill_stores, spill_loads, shared] = rest;
        Usage { name: name.to_owned(), registers, stack, spill_stores, spill_loads, shared }
    }

    #[test]
    fn every_function_is_read_and_they_are_in_the_order_of_their_names() {
        let expected = [
            usage("_Z5scaleI13__nv_bfloat16Li128EEvPT_f", Some(9), [0, 0, 0, 512]),
            usage("_Z5scaleIfLi32EEvPT_f", Some(10), [0, 0, 0, 128]),
            usage("_Z6helperPfi", None, [0, 0, 0, 0]),
            usage("spills", Some(32), [224, 248, 248, 0]),
            usage("uses_helper", Some(21), [32, 0, 0, 0]),
        ];
        assert_eq!(parse(REPORT).unwrap(), expected);
    }

    #[test]
    fn registers_are_the_kernel_s_where_a_called_function_is_named_before_them() {
        let function = |name| {
            format!(
                "ptxas info    : Function properties for {name}\n    \
                 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
            )
        };
        let report = format!(
            "ptxas info    : Compiling entry function 'a' for 'sm_90'\n{}{}\
             ptxas info    : Used 8 registers, used 0 barriers\n",
            function("a"),
            function("called")
        );
        let expected = [usage("a", Some(8), [0; 4]), usage("called", None, [0; 4])];
        assert_eq!(parse(&report).unwrap(), expected);
    }

    #[test]
    fn a_stack_frame_alone_is_no_spill() {
        let spilled: Vec<_> = parse(REPORT).unwrap().into_iter().filter(Usage::spills).collect();
        assert_eq!(spilled.len(), 1);
        assert_eq!(spilled[0].name, "spills");
        assert!(usage("loads", None, [0, 0, 4, 0]).spills());
    }

    #[test]
    fn a_report_of_nothing_has_no_function() {
        assert_eq!(parse("ptxas info    : 0 bytes gmem\n").unwrap(), []);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let kernel = "ptxas info    : Compiling entry function 'a' for 'sm_90'\n\
                      ptxas info    : Function properties for a\n";
        for line in [
            "    x bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
            "    0 bytes stack frame, 0 bytes spill stores",
            "ptxas info    : Used many registers, used 0 barriers",
            "ptxas info    : Used 8 registers, some bytes smem",
        ] {
            let error = format!("{:#}", parse(&format!("{kernel}{line}\n")).unwrap_err());
            assert!(error.contains(line), "{line}: {error}");
        }
        assert!(parse("ptxas info    : Used 8 registers\n").is_err(), "of no kernel");
    }
}

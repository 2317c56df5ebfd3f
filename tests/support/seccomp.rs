//! A seccomp filter around a command, as containers and service managers put one around a server.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What becomes of a system call.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// It fails with this error number.
    Fails(i32),
    Kills,
}

/// From exec on, the command's process and its children may not make this system call (`libc::SYS_…`).
pub fn forbid(command: &mut Command, call: libc::c_long, verdict: Verdict) {
    let action = match verdict {
        Verdict::Fails(error) => libc::SECCOMP_RET_ERRNO | error as u32,
        Verdict::Kills => libc::SECCOMP_RET_KILL_PROCESS,
    };
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call stands first in what the filter is given: if it is ours, the action, else whatever was asked for.
    let filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: prctl is async-signal-safe; the kernel copies the program, which is there for the call.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}

//! What can be known before the first connection: that the target answers, and that descriptors, ports and memory suffice.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use campanile::sys;

use super::args::Options;
use super::crowd::{Rank, Size};
use super::process;
use super::publish::client;
use super::target::Target;

/// Descriptors of a worker that are no client: standard ones, epoll, eventfd, what other threads had open.
const DESCRIPTORS_SPARE: u64 = 64;
/// Connections from one source address: well below the range of ephemeral ports, so that ports in TIME_WAIT do no harm.
const PER_SOURCE: u32 = 5000;
/// Kernel memory of both ends of a connection on this host. Measured 6.4 to 8.4 KB.
const KERNEL_BYTES_PER_PAIR: u64 = 8400;
/// Of the load generator's own, for a client over TLS.
const SESSION_BYTES: u64 = 8000;

/// With --realtime the publisher runs before Redis, and Redis before the clients: a message is on its way before somebody reads the last one.
pub const PUBLISHERS_FIRST: i32 = 3;
pub const REDIS_FIRST: i32 = 2;
const CLIENTS_FIRST: i32 = 1;

/// Whether threads may have such a priority.
pub fn check_realtime() -> anyhow::Result<()> {
    let tried = std::thread::spawn(|| sys::run_first(0, CLIENTS_FIRST)).join();
    tried.unwrap_or_else(|_| Err(std::io::Error::other("the thread that tried it panicked"))).context(
        "--realtime needs the right to real-time priorities: run it as root, `setcap cap_sys_nice+ep` the program, or `ulimit -r 3`",
    )
}

/// How the clients are spread over threads and addresses, or what is too low for them.
pub fn size(options: &Options, target: &Target) -> anyhow::Result<Size> {
    let limit = sys::raise_descriptor_limit().context("the limit on descriptors cannot be read")?.soft;
    let per_thread = limit.saturating_sub(DESCRIPTORS_SPARE);
    if per_thread == 0 {
        bail!("a limit of {limit} descriptors leaves none for clients: `ulimit -n 20000` first, or use scripts/loadgen");
    }
    let clients = u64::from(options.clients);
    let needed = clients.div_ceil(per_thread);
    let threads = options.threads.unwrap_or_else(|| (needed as usize).max(1));
    if clients.div_ceil(threads.max(1) as u64) > per_thread {
        bail!(
            "{clients} clients on {threads} threads need {} descriptors each, but the limit is {limit}: \
             leave --threads away or give at least {needed}, or raise the limit (`ulimit -n`)",
            clients.div_ceil(threads as u64) + DESCRIPTORS_SPARE
        );
    }
    let is_loopback = target.address.ip().is_loopback();
    // The floor beside the server has as many clients of its own (connect: one after the other).
    let crowds = if options.floor || options.has_two_servers() { 2 } else { 1 };
    check_host_files(clients * crowds * if is_loopback { 2 } else { 1 })?;
    let sources = if options.source.is_empty() && is_loopback && target.address.is_ipv4() {
        loopback_sources(options.clients)
    } else {
        options.source.clone()
    };
    check_ports(clients, sources.len().max(1) as u64)?;
    let sessions = if target.tls.is_some() { clients * SESSION_BYTES } else { 0 };
    let needed = sessions + if is_loopback { clients * crowds * KERNEL_BYTES_PER_PAIR } else { 0 };
    if needed > 0 {
        let available = process::kernel().available_bytes;
        if available > 0 && needed > available {
            bail!(
                "{} connections from this host take about {} MB of memory for sockets and TLS sessions, but {} MB are available: \
                 use fewer clients",
                clients * crowds,
                needed / 1_000_000,
                available / 1_000_000
            );
        }
    }
    Ok(Size {
        rank: if options.realtime { Rank::First(CLIENTS_FIRST) } else { Rank::Usual },
        clients: options.clients,
        threads,
        cores: options.cores.0.clone(),
        window: options.window.max(1),
        connects_per_second: options.connect_rate,
        sources,
        is_halved: false,
    })
}

/// 127.0.0.2 and on: the loopback network has 16 million addresses, each with its own ports.
pub fn loopback_sources(clients: u32) -> Vec<Ipv4Addr> {
    (0..=clients / PER_SOURCE)
        .map(|number| {
            // 250 hosts to each third byte: no .0 and no .255.
            let [_, _, high, low] = (((number + 1) / 250) << 8 | ((number + 1) % 250 + 1)).to_be_bytes();
            Ipv4Addr::new(127, 0, high, low)
        })
        .collect()
}

/// Both ends may be on this host.
fn check_host_files(files: u64) -> anyhow::Result<()> {
    let numbers = |path: &str| -> Vec<u64> {
        fs::read_to_string(path).unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    if let [used, _, most] = numbers("/proc/sys/fs/file-nr")[..]
        && used.saturating_add(files) > most
    {
        bail!("the host allows {most} open files and has {used}; {files} more do not fit: `sysctl fs.file-max={}`", used + files + 10_000);
    }
    Ok(())
}

fn check_ports(clients: u64, sources: u64) -> anyhow::Result<()> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range: Vec<u64> = range.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if let [first, last] = range[..] {
        let ports = last + 1 - first;
        if clients > ports * sources {
            bail!(
                "{clients} connections to one address need as many source ports; {sources} source address{} with {ports} ports each: \
                 give more addresses of this host (--source IP,IP), or `sysctl net.ipv4.ip_local_port_range='1024 65535'`",
                if sources == 1 { " has" } else { "es have" }
            );
        }
    }
    Ok(())
}

/// Connects once, blocking, to be able to say what is wrong.
pub fn probe(target: &Target) -> anyhow::Result<()> {
    client::open(target, &target.request(0, 0, false)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_distinct_and_never_the_servers_own() {
        let mut sources = loopback_sources(5_000_000);
        assert_eq!(sources[0], Ipv4Addr::new(127, 0, 0, 3).min(sources[0]));
        assert!(!sources.contains(&Ipv4Addr::LOCALHOST));
        let count = sources.len();
        sources.sort();
        sources.dedup();
        assert_eq!((sources.len(), count), (1001, 1001));
    }

    #[test]
    fn too_few_ports_are_told_with_a_remedy() {
        let error = check_ports(1_000_000, 1).unwrap_err().to_string();
        assert!(error.contains("--source") && error.contains("ip_local_port_range"), "{error}");
        check_ports(1_000_000, 100).unwrap();
    }
}

//! How values of options are written.

use campanile::named::Named;
use campanile::wire::Format;

use crate::stamp::STAMP_BYTES;

/// A list of cores: `0,2-3`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Cores, String> {
        let mut cores = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < 4096 => cores.extend(first..=last),
                _ => return Err("cores are written like 0,2-3".to_owned()),
            }
        }
        Ok(Cores(cores))
    }
}

pub(super) fn parse_number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0).ok_or_else(|| "a number, 0 or more".to_owned())
}

pub(super) fn parse_positive(text: &str) -> Result<f64, String> {
    parse_number(text).ok().filter(|number| *number > 0.0).ok_or_else(|| "a number above 0".to_owned())
}

pub(super) fn parse_head_bytes(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|bytes| (1..=64 * 1024).contains(bytes)).ok_or_else(|| "accepted are 1 to 65536 bytes".to_owned())
}

pub(super) fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|threads| (1..=4096).contains(threads)).ok_or_else(|| "accepted are 1 to 4096".to_owned())
}

pub(super) fn parse_payload(text: &str) -> Result<usize, String> {
    let accepted = STAMP_BYTES..=64 << 20;
    let told = format!("accepted are {} to {} bytes: the stamp that is checked takes {STAMP_BYTES}", accepted.start(), accepted.end());
    text.parse().ok().filter(|bytes| accepted.contains(bytes)).ok_or(told)
}

pub(super) fn parse_format(text: &str) -> Result<Format, String> {
    Format::from_name(text).ok_or_else(|| format!("accepted: {}", Format::NAMES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read() {
        assert_eq!("0,2-3".parse(), Ok(Cores(vec![0, 2, 3])));
        assert_eq!("".parse(), Ok(Cores(vec![])));
        assert!("3-2".parse::<Cores>().is_err() && "x".parse::<Cores>().is_err());
    }
}

//! A strict reader of what `/metrics` writes, in both formats. It accepts only what Campanile may write, not all that the
//! formats allow: no timestamps, no exemplars.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Classic,
}

#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) families: BTreeMap<String, Family>,
}

impl Exposition {
    /// The one value of a sample name with exactly these labels.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: BTreeMap<_, _> = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut found = self.families.values().flat_map(|family| &family.samples).filter(|s| s.name == name && s.labels == labels);
        let sample = found.next().unwrap_or_else(|| panic!("no sample {name}{labels:?}"));
        assert!(found.next().is_none());
        sample.value
    }
}

pub(super) fn parse(text: &str, dialect: Dialect) -> Result<Exposition, String> {
    let text = match dialect {
        Dialect::OpenMetrics => text.strip_suffix("# EOF\n").ok_or("does not end with # EOF")?,
        Dialect::Classic => text,
    };
    if !text.ends_with('\n') {
        return Err("the last line does not end".into());
    }
    let mut families = BTreeMap::<String, Family>::new();
    let mut series = BTreeSet::new();
    let mut current = String::new();
    let mut helped = None;
    for (number, line) in text.lines().enumerate() {
        let fail = |what: &str| Err(format!("line {}: {what}: {line}", number + 1));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return fail("help without text") };
            if !is_name(name) || help.trim().is_empty() || help.contains('\\') {
                return fail("bad help");
            }
            if helped.is_some() || families.contains_key(name) {
                return fail("family begun twice, or help without type");
            }
            helped = Some((name.to_owned(), help.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return fail("type without a kind") };
            let Some((_, help)) = helped.take().filter(|(helped, _)| helped == name) else { return fail("type without its help") };
            let kinds: &[&str] = match dialect {
                Dialect::OpenMetrics => &["counter", "gauge", "histogram", "info", "unknown"],
                Dialect::Classic => &["counter", "gauge", "histogram", "untyped"],
            };
            if !kinds.contains(&kind) {
                return fail("no such kind here");
            }
            families.insert(name.to_owned(), Family { kind: kind.into(), help, samples: Vec::new() });
            current = name.to_owned();
        } else if line.starts_with('#') || line.is_empty() {
            return fail("a line that says nothing");
        } else {
            if helped.is_some() {
                return fail("a sample between help and type");
            }
            let sample = sample(line).map_err(|what| format!("line {}: {what}: {line}", number + 1))?;
            let Some(family) = families.get_mut(&current) else { return fail("a sample before any family") };
            let suffixes: &[&str] = match (dialect, family.kind.as_str()) {
                (_, "histogram") => &["_sum", "_count", "_bucket"],
                (Dialect::OpenMetrics, "counter") => &["_total"],
                (Dialect::OpenMetrics, "info") => &["_info"],
                _ => &[""],
            };
            if !suffixes.iter().any(|suffix| sample.name.strip_suffix(suffix) == Some(&current)) {
                return fail("not a sample of the family it stands in");
            }
            if family.kind == "counter" && (sample.value.is_nan() || sample.value < 0.0) {
                return fail("a counter below zero");
            }
            if !series.insert((sample.name.clone(), sample.labels.clone())) {
                return fail("the same series twice");
            }
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        if family.samples.is_empty() {
            return Err(format!("{name} has no sample"));
        }
        if family.kind == "histogram" {
            histogram(name, family)?;
        }
    }
    Ok(Exposition { families })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// `name{key="value",…} number`
fn sample(line: &str) -> Result<Sample, String> {
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').ok_or("labels do not end")?),
        None => (series, ""),
    };
    if !is_name(name) {
        return Err("bad name".into());
    }
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").ok_or("label without a value")?;
        let (value, after) = after.split_once('"').ok_or("label value does not end")?;
        if !is_name(key) || key.contains(':') || value.contains('\\') {
            return Err("bad label".into());
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err("label given twice".into());
        }
        rest = match after.strip_prefix(',') {
            Some("") => return Err("comma after the last label".into()),
            Some(after) => after,
            None if after.is_empty() => after,
            None => return Err("no comma between labels".into()),
        };
    }
    Ok(Sample { name: name.into(), labels, value: number(value)? })
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "NaN" | "-Inf" => Err("a value that Campanile has no use for".into()),
        // Rust also reads `inf` and `nan`, which the formats spell otherwise.
        _ if text.contains(|c: char| c.is_ascii_alphabetic() && c != 'e') => Err("bad number".into()),
        _ => text.parse().map_err(|_| "bad number".into()),
    }
}

/// Per label set: bounds rise, counts never fall, the last bound is +Inf and its count is `_count`; one sum and one count.
fn histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut groups = BTreeMap::<_, (Vec<(f64, f64)>, Vec<f64>, usize)>::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let (buckets, counts, sums) = groups.entry(labels).or_default();
        match (sample.name.rsplit_once('_').map(|(_, suffix)| suffix), bound) {
            (Some("bucket"), Some(bound)) => buckets.push((number(&bound)?, sample.value)),
            (Some("count"), None) => counts.push(sample.value),
            (Some("sum"), None) => *sums += 1,
            _ => return Err(format!("{name}: le where it does not belong")),
        }
    }
    for (labels, (buckets, counts, sums)) in groups {
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().copied();
        if !rising || sums != 1 || counts.len() != 1 || last != Some((f64::INFINITY, counts[0])) {
            return Err(format!("{name}{labels:?} is not a histogram"));
        }
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"b c\"} 2.5\na 3\n";
    assert_eq!(parse(good, Dialect::Classic).unwrap().value("a", &[("y", "b c"), ("x", "1")]), 2.5);
    parse(&format!("{good}# EOF\n"), Dialect::OpenMetrics).unwrap();
    for bad in [
        "",
        "a 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a A.\na 1\n",
        "# HELP a A.\n# TYPE a gauge\n",
        "# HELP a A.\n# TYPE b gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na{x=\"1\"y=\"2\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{x=\"1\",} 1\n",
        "# HELP a A.\n# TYPE a gauge\na one\n",
        "# HELP a A.\n# TYPE a gauge\na inf\n",
        "# HELP a A.\n# TYPE a unknown\na 1\n",
        "# HELP a A.\n# TYPE a counter\na -1\n",
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# HELP a A.\n# TYPE a gauge\na 1\n# EOF\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
    ] {
        parse(bad, Dialect::Classic).expect_err(bad);
    }
    parse("# HELP a A.\n# TYPE a counter\na 1\n# EOF\n", Dialect::OpenMetrics).expect_err("a counter without _total");
}

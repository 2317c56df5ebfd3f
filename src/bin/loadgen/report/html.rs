//! The page of a run: stub.

use super::Report;

pub fn page(report: &Report) -> String {
    report.title.clone()
}

#pragma once

#include "cbtm/run/run_directory.h"

namespace cbtm {

/// Writes run/report.html from what lies in the run directory (docs/formats.md): run.json, clusters.json, the cards and
/// metrics of seed, baseline and experts, and the results in evaluation/. One self-contained page: no network, no
/// script, charts as inline SVG. What is missing or cannot be read is named on the page and the rest is shown, so it
/// may be called at any point of a run; the same directory gives the same bytes. Throws Error if there is no such
/// directory or the page cannot be written.
void write_report(const RunDirectory& run);

}  // namespace cbtm

#pragma once

#include "cbtm/run/run_directory.h"

namespace cbtm {

/// Writes run/report.html from the files of a run directory (docs/formats.md, 'Run directory'): run.json,
/// clusters.json, the cards and metrics of seed, baseline and experts, and the results in evaluation/. It is one
/// self-contained page without network access or scripts; charts are inline SVG.
///
/// A file that is missing or cannot be read is named on the page, and the rest is shown. So this may be called at any
/// point of a run. The same directory gives the same bytes. Throws Error if the directory does not exist or the page
/// cannot be written.
void write_report(const RunDirectory& run);

}  // namespace cbtm

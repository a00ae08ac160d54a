#pragma once

#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/ensemble/evaluate.h"
#include "commands/command_line.h"

namespace cbtm {

/// Throws Error if --token-log-probs names a file that may not be written.
void check_token_details(const CommandLine& line);

/// The file of --token-log-probs (docs/formats.md, 'Token log-probabilities'). Does nothing without that flag.
class TokenDetailsFile {
 public:
  /// Lets `options`, whose mixtures and routers are complete, write the lines: of the first mixture, or of the first
  /// score of each router.
  TokenDetailsFile(const CommandLine& line, EvaluationOptions& options);
  TokenDetailsFile(const TokenDetailsFile&) = delete;
  /// The file appears.
  void commit();

 private:
  std::optional<AtomicFile> file_;
};

}  // namespace cbtm

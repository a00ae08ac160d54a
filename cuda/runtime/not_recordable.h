#pragma once

#include <exception>

namespace cbtm::cuda {

/// Thrown while operators are recorded that have not run before with the same host numbers.
class NotRecordable : public std::exception {};

}  // namespace cbtm::cuda

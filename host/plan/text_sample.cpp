#include "plan/text_sample.h"

#include <algorithm>
#include <utility>

#include "cbtm/base/hash.h"

namespace cbtm {

void TextSample::add(const std::string& text) {
  const double place = static_cast<double>(hash64(text, seed_)) * 0x1p-64;
  if (place >= share_) return;
  bytes_ += static_cast<int64_t>(text.size());
  drawn_.push_back({place, text});
  while (bytes_ > bytes_max_ && drawn_.size() > 1) halve();
}

void TextSample::halve() {
  share_ /= 2;
  double least = 1;
  for (const Drawn& drawn : drawn_) least = std::min(least, drawn.place);
  std::erase_if(drawn_, [&](const Drawn& drawn) { return drawn.place >= share_ && drawn.place > least; });  // one stays
  bytes_ = 0;
  for (const Drawn& drawn : drawn_) bytes_ += static_cast<int64_t>(drawn.text.size());
}

std::vector<std::string> TextSample::take() {
  std::vector<std::string> texts;
  for (Drawn& drawn : drawn_) texts.push_back(std::move(drawn.text));
  drawn_.clear();
  bytes_ = 0;
  return texts;
}

}  // namespace cbtm

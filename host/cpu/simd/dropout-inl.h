// Dropout (cbtm/device/dropout.h): a part of kernels.cpp, compiled once per instruction set with it.

/// High and low halves of the products of 32-bit words.
HWY_INLINE void multiply_words(Words a, Words b, Words& high, Words& low) {
  const hn::RepartitionToWide<decltype(kWords)> wide;
  const auto even = hn::MulEven(a, b);
  const auto odd = hn::MulEven(hn::BitCast(kWords, hn::ShiftRight<32>(hn::BitCast(wide, a))), b);
  high = hn::OddEven(hn::BitCast(kWords, odd), hn::BitCast(kWords, hn::ShiftRight<32>(even)));
  low = hn::OddEven(hn::BitCast(kWords, hn::ShiftLeft<32>(odd)), hn::BitCast(kWords, even));
}

/// Words of groups first .. first + kLanes - 1, one a lane.
struct GroupWords {
  Words word[4];
};
HWY_INLINE GroupWords group_words(const DropoutDraw& draw, uint64_t first) {
  const Words multiplier0 = hn::Set(kWords, 0xD2511F53u);
  const Words multiplier1 = hn::Set(kWords, 0xCD9E8D57u);
  const Words low_start = hn::Set(kWords, static_cast<uint32_t>(first));
  const Words high_start = hn::Set(kWords, static_cast<uint32_t>(first >> 32));
  Words c0 = hn::Add(low_start, hn::Iota(kWords, 0));
  // The lanes may cross a multiple of 2^32.
  Words c1 = hn::IfThenElse(hn::Lt(c0, low_start), hn::Add(high_start, hn::Set(kWords, 1u)), high_start);
  Words c2 = hn::Set(kWords, draw.site);
  Words c3 = hn::Set(kWords, draw.step);
  uint32_t key0 = static_cast<uint32_t>(draw.seed);
  uint32_t key1 = static_cast<uint32_t>(draw.seed >> 32);
  for (int round = 0; round < kPhiloxDropoutRounds; ++round) {
    Words high0, low0, high1, low1;
    multiply_words(c0, multiplier0, high0, low0);
    multiply_words(c2, multiplier1, high1, low1);
    const Words next0 = hn::Xor(hn::Xor(high1, c1), hn::Set(kWords, key0));
    const Words next2 = hn::Xor(hn::Xor(high0, c3), hn::Set(kWords, key1));
    c0 = next0;
    c1 = low1;
    c2 = next2;
    c3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

void decided_multipliers(const DropoutDraw& draw, const uint8_t* decisions, int64_t count, float* out) {
  const hn::Rebind<uint8_t, decltype(kIntegers)> bytes;
  const auto limit = hn::Set(kIntegers, static_cast<int32_t>(draw.limit));
  const Floats kept = hn::Set(kFloats, draw.kept);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto drawn = hn::PromoteTo(kIntegers, hn::LoadU(bytes, decisions + i));
    hn::StoreU(hn::IfThenZeroElse(hn::RebindMask(kFloats, hn::Lt(drawn, limit)), kept), kFloats, out + i);
  }
  for (; i < count; ++i) out[i] = decisions[i] < draw.limit ? 0.0f : draw.kept;
}

void dropout_multipliers(const DropoutDraw& draw, uint64_t first_group, int64_t count, float* out) {
  alignas(64) uint32_t words[4 * kLanes];  // least significant byte first, as the decisions are
  for (int64_t column = 0; column < count; column += 16 * kLanes) {
    const GroupWords groups = group_words(draw, first_group + static_cast<uint64_t>(column / 16));
    hn::StoreInterleaved4(groups.word[0], groups.word[1], groups.word[2], groups.word[3], kWords, words);
    const int64_t rest = count - column;
    decided_multipliers(draw, reinterpret_cast<const uint8_t*>(words), rest < 16 * kLanes ? rest : 16 * kLanes,
                        out + column);
  }
}

void attention_decisions(const DropoutDraw& draw, uint64_t first_group, int64_t keys, uint8_t* decisions,
                         int64_t stride) {
  static_assert(kDecisionKeys % (4 * kLanes) == 0);
  const hn::Repartition<uint8_t, decltype(kWords)> bytes;
  const auto even_bytes = hn::Set(kWords, 0x00FF00FFu);
  // Four lanes have the keys 2 l, 2 l + 1 (their low halves) and 8 + 2 l, 9 + 2 l of a block of sixteen.
  alignas(16) constexpr uint8_t kOrder[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
  const auto order = hn::LoadDup128(bytes, kOrder);
  for (int64_t key = 0; key < keys; key += 4 * kLanes) {
    const GroupWords groups = group_words(draw, first_group + static_cast<uint64_t>(key / 4));
    for (int64_t query = 0; query < 2; ++query) {
      const Words even_keys = groups.word[query], odd_keys = groups.word[query + 2];
      const auto store = [&](Words even, Words odd, int64_t row) HWY_ATTR {
        const Words pairs = hn::Or(hn::And(even, even_bytes), hn::ShiftLeft<8>(hn::And(odd, even_bytes)));
        hn::StoreU(hn::TableLookupBytes(hn::BitCast(bytes, pairs), order), bytes, decisions + row * stride + key);
      };
      store(even_keys, odd_keys, query);
      store(hn::ShiftRight<8>(even_keys), hn::ShiftRight<8>(odd_keys), query + 8);
    }
  }
}

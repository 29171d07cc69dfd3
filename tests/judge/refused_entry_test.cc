// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/refused_entry.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tdp/judge/contract.h"

namespace tdp::judge {
namespace {

TEST(RefusedEntry, ItsReasonIsTold) {
  const struct {
    uint64_t entry;
    int level;
    bool linear;
    const char* says;
  } cases[] = {
      {uint64_t{1} << 46 | 0x37, 1, false, "its address has more than the CPU's 46 bits"},
      {0x1000'0087, 4, false, "bit 7, a large page, is reserved at level 4"},
      {0x1000'10b7, 2, false, "the address of a page of 0x200000 bytes has bits 0x1000 below it"},
      {0x1020'00b7, 3, false, "the address of a page of 0x40000000 bytes has bits 0x10200000"},
      {0x1000'0032, 1, false, "it gives W without R"},
      {0x1000'0034, 1, false, "it gives X without R"},
      {0x1000'000f, 2, false, "bits 6:3 of an entry that leads to a table"},
      {0x1000'001f, 1, false, "memory type 3 is reserved"},
      {uint64_t{1} << 46 | 7, 1, true, "its address has more than the CPU's 46 bits"},
      {0x1000'2087, 2, true, "has bits 0x2000 below it"},
      {0x1000'3087, 2, true, "has bits 0x2000 below it"},  // bit 12 is one of the PAT's
      {0x1000'0036, 1, false, "it gives W without R"},
  };
  for (const auto& refused : cases) {
    EXPECT_NE(WhyRefused(refused.entry, refused.level, refused.linear, 46).find(refused.says),
              std::string::npos)
        << WhyRefused(refused.entry, refused.level, refused.linear, 46);
  }
}

TEST(Misuse, OfAHoleBeyondWhatIsMappedAtFirstIsTold) {
  tdpj_subject subject = {};
  subject.name = "holes";
  subject.create = [] { return 0; };
  subject.eptp = [] { return uint64_t{0}; };
  subject.map = [](uint64_t, uint64_t, uint64_t, unsigned, unsigned) { return 0; };
  subject.contract.rights_count = 1;
  subject.contract.rights[0] = TDPJ_R;
  subject.contract.gpa_limit = subject.contract.hpa_limit = 1 << 20;
  subject.contract.initial_size = 1 << 20;
  subject.contract.initial_holes[1] = {0x1000, 0x2000};
  EXPECT_EQ(MisuseOf(&subject), "");
  subject.contract.initial_holes[1] = {0xff000, 0x2000};
  EXPECT_NE(MisuseOf(&subject).find("contract.initial_holes[1] is {0xff000, 0x2000}"),
            std::string::npos);
  subject.contract.initial_holes[1] = {0x800, 0x1000};
  EXPECT_NE(MisuseOf(&subject).find("contract.initial_holes[1]"), std::string::npos);
}

}  // namespace
}  // namespace tdp::judge

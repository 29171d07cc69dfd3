// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A `Vm` with vCPUs in the guest, the machine under it and the flat model beside it, small and
// cheap enough to be made anew for each run.

#ifndef TDP_TESTS_EXPLORE_WORLD_H_
#define TDP_TESTS_EXPLORE_WORLD_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm_options.h"
#include "tests/explore/explored_host.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/flat_model.h"
#include "tests/explore/guest_cpu.h"
#include "tests/explore/strategy.h"

namespace tdp::explore {

// Says which tables guests run on.
enum class GuestMode : uint8_t {
  kDirect,
  kView,    // of the view beside the base
  kShadow,  // of the guest's own tables
  kNested,  // of the tables that a hypervisor in the guest keeps
};

// A way to set a `Vm` up.
struct MachineKind {
  const char* name;
  VmOptions options;
  GuestMode mode = GuestMode::kDirect;
  bool ring = false;    // dirty rings
  bool manual = false;  // manual protection of the dirty log
  bool vmfunc = false;  // guests switch views without an exit
  bool smm = false;     // guests go to address space 1 and back
  bool gib = false;     // slot 0 is a whole GiB: its log is protected two levels above its leaves
};

// Returns the region that makes a slot what `version` says.
MemoryRegion RegionOf(const ExploredHost& host, const SlotVersion& version);

// Return every kind, their names for tests with a kind as their parameter, and the kind of a name.
// The last dies if there is none.
const std::vector<MachineKind>& MachineKinds();
std::vector<const char*> NamesOfKinds();
const MachineKind& KindOf(std::string_view name);

class WalkedTables;

class World {
 public:
  // Guest frames: slot 0 stands at frame 0; slot 1 at `second()`, or at `elsewhere()` after a move;
  // slot 2, where it is made, at `hole()`, which guests touch before. They lie behind slot 0.
  static constexpr uint64_t kFirstPages = 1024;
  Gfn second() const { return Gfn(2048) + PagesBehind(); }
  Gfn elsewhere() const { return Gfn(3072) + PagesBehind(); }
  Gfn hole() const { return Gfn(4096) + PagesBehind(); }
  // Returns how many pages slot 0 has behind those that guests touch.
  PageCount PagesBehind() const {
    return kind_.gib ? kLevel1G.pages() - PageCount(kFirstPages) : PageCount(0);
  }
  static constexpr uint64_t kSmallPages = 16;
  // In the kind with SMM, address space 1 shows the memory of slot 0 as well, and at `second()`, or
  // at `elsewhere()`, memory of its own.
  static constexpr uint32_t kSharedInSmm = SlotIn(1, 0);
  static constexpr uint32_t kSmram = SlotIn(1, 1);
  static constexpr HostPageNumber kSmramPages = 1100;
  static constexpr HostPageNumber kSecondPages = 1024;
  static constexpr HostPageNumber kThirdPages = 1040;
  static constexpr HostPageNumber kShownPages = 1200;    // of no slot; the view shows them
  static constexpr HostPageNumber kPrivatePages = 1536;  // of slot 0, in the kind with such memory

  // The guest's own tables, and those of a hypervisor in it, stand in these frames of slot 0: root,
  // two upper tables, and the tables of frames [0, 512) and [512, 1024). They map every frame of
  // slot 0 at its own number, and so do three more tables those of the small slots.
  static constexpr uint64_t kTables = 64;

  // Makes a world with `guests` vCPUs that have made so many accesses. `seed` decides what varies.
  World(FiberScheduler& fibers, Arena& arena, const MachineKind& kind, uint64_t seed, int guests,
        int accesses, int operators);
  ~World();

  Vm& vm() { return *vm_; }
  ExploredHost& host() { return host_; }
  FlatModel& model() { return model_; }
  FiberScheduler& fibers() { return fibers_; }
  const MachineKind& kind() const { return kind_; }
  ViewId view() const { return view_; }

  // --- For threads
  // Lets vCPU `guest` make so many accesses. It stays in the guest until every operator is done,
  // and comes out when it is kicked or faults. With `all` it makes them even after that, so that a
  // search by what threads have in common sees them whoever comes first.
  void RunGuest(int guest, int accesses, bool all);
  void OperatorDone();
  // Makes `vcpu` run a guest of the machine's kind from now on.
  absl::Status Start(Vcpu& vcpu);
  // Makes a few accesses on a vCPU of the caller's.
  void Touch(Vcpu& vcpu, GuestCpu& cpu, int accesses, Random& random);
  // Another of its runs one access, which writes `store` where `gfn` is. Whether it came to that.
  bool Store(Vcpu& vcpu, GuestCpu& cpu, Gfn gfn, GuestStore store);
  void TouchOnce(Vcpu& vcpu, GuestCpu& cpu, Gfn gfn, Access kind);
  // Makes the guest's own tables say `to` of `FlatModel::kRemapped` from now on. One vCPU's CPU
  // forgets what they said, and where they are a hypervisor's every CPU does.
  void Remap(Vcpu& vcpu, GuestCpu& cpu, Gfn to, bool writable);
  // Executes INVLPG for the frame.
  void ForgetRemapped(Vcpu& vcpu, GuestCpu& cpu);
  // Lets the other threads run: what the caller holds is held meanwhile.
  void HoldOn();

  // --- For operations
  // Something has been promised by now: no vCPU that is in the guest may be able to break it.
  void CheckPromises();
  // A view was destroyed: nobody is on it, unless there is one of its number again.
  void CheckLeft(ViewId view);
  // Nobody knows what [first, first + pages) was at `since`.
  void CheckForgotten(AddressSpaceId space, Gfn first, uint64_t pages, uint64_t since);
  // `status` is OK, or memory has run out where it may.
  void Expect(const absl::Status& status, const char* what);
  void Fail(const std::string& finding);
  void set_may_run_out(bool may) { may_run_out_ = may; }

  // The host changes its page table (1), and the engine has been told of it (-1).
  void HostChanges(int by) {
    untold_changes_ += by;
    ++host_changes_;
  }
  uint64_t host_changes() const { return host_changes_; }
  bool host_is_ahead() const { return untold_changes_ != 0; }
  // The memory of that frame is taken back from the guest.
  void Revoke(Hfn frame);
  WalkedTables& walked() { return *walked_; }
  // Held by an operator while it changes what the model knows by one value: slots, rings, and
  // types, rights and attributes.
  Mutex& slots() { return slots_; }
  Mutex& rings() { return rings_; }
  Mutex& types() { return types_; }

  // After the threads: what does not hold.
  std::string Judge();

  // Harvests all rings into `harvested`, which one thread at a time does.
  void HarvestRings();
  // Their pages are protected again, and read.
  void ResetRings();
  // Takes the log of the slot that has this number in the model.
  void TakeLog(uint32_t slot);
  // Notes that a take of a log begins, and returns its mark: the take has to show every write
  // before it.
  uint64_t BeginTake();
  void CheckShown(uint64_t mark, uint32_t slot);
  bool uses_rings() const { return kind_.ring; }

 private:
  struct Guest {
    std::unique_ptr<Vcpu> vcpu;
    std::unique_ptr<GuestCpu> cpu;
    std::unique_ptr<Random> random;
  };
  struct Touched {
    Gfn gfn;
    Access kind;
    bool from_links;
    GuestStore* store = nullptr;
  };

  void MakeSlots(Random& random);
  void MakeSlotsInSmm(bool logs);
  std::vector<uint32_t> Slots() const;
  void WriteGuestTables();
  // `also` is called after each word of the log.
  absl::Status TakeDirtyLog(uint32_t slot, absl::FunctionRef<void()> also);
  // Before an access: a guest that may switch views does so now and then.
  void MaySwitch(GuestCpu& cpu, Random& random) const;
  void EnterContext(Vcpu& vcpu, GuestCpu& cpu, const GuestEntry& entry) const;
  Touched NextTouch(Random& random) const;
  // Runs accesses until one ends in an event; handles it. Returns how many accesses were made.
  int RunInGuest(Vcpu& vcpu, GuestCpu& cpu, Random& random, int most, bool stay);
  // Makes one access, and tries it again as often as it takes. Returns false where it takes too
  // many tries.
  bool RunOne(Vcpu& vcpu, GuestCpu& cpu, const Touched& touch);
  // Returns whether the access is to be tried again.
  bool Handle(Vcpu& vcpu, GuestCpu& cpu, const Touched& touch, CpuEvent event);
  bool HandleDirect(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found);
  bool HandleShadow(Vcpu& vcpu, const Touched& touch, Access found);
  bool EmulateWrite(Vcpu& vcpu, Gpa gpa, GuestStore* store);
  bool HandleNested(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found);
  bool TryAgain(bool again);
  // Returns that for the outcomes that every kind of fault has.
  template <typename Result>
  bool TryAgainAfter(const Result& result, const char* what);
  void CallFromGuest();

  FiberScheduler& fibers_;
  const MachineKind& kind_;
  ExploredHost host_;
  FlatModel model_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<WalkedTables> walked_;
  ViewId view_ = kBaseView;
  Hpa eptp_list_{};  // 0: guests do not switch
  std::vector<Guest> guests_;
  int operators_;  // that are not done
  bool may_run_out_ = false;
  uint64_t host_changes_ = 0;
  int untold_changes_ = 0;
  Mutex slots_;
  Mutex rings_;
  Mutex types_;
  std::vector<HostPageNumber> harvested_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_WORLD_H_

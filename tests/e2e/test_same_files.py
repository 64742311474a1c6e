"""What a restored program knows files by: their device and inode numbers, in what a rank has in memory.

torch's data loader keeps shared memory of its workers under these numbers: one that came back would bring an old batch.
"""

import sys
from pathlib import Path

from tests.e2e.fleet import Fleet

FILES = """
import os, time
known = {}
for turn in range(10**6):
    for folder in ("/dev/shm", "/tmp", "/run"):
        with open(f"{folder}/{turn}", "w") as file:
            status = os.fstat(file.fileno())
            number = (status.st_dev, status.st_ino)
            print(folder, turn, "as", known.get(number, "never before"), flush=True)
            known[number] = f"{folder}/{turn}"
        os.unlink(f"{folder}/{turn}")
    if os.path.exists("stop"):
        break
    time.sleep(0.02)
"""

BATCHES = """
import os, time, torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 16000
    def __getitem__(self, number):
        return torch.full((256,), number)

for turn, batch in enumerate(DataLoader(Numbers(), 16, num_workers=2, multiprocessing_context="fork")):
    print(turn, batch[0, 0].item() // 16, flush=True)
    if os.path.exists("stop"):
        break
    time.sleep(0.3)
os._exit(0)
"""


def run_with_pauses(fleet: Fleet, folder: Path, program: str, pauses: int) -> list[list[str]]:
    (folder / "program.py").write_text(program)
    job = fleet.submit((sys.executable, "program.py"), folder)
    for _ in range(pauses):
        job.printed(2)
        job.verb("pause")
        job.verb("resume")
    job.printed(2)
    job.finish()
    return [line.split(maxsplit=3) for line in job.out()]


def test_no_file_gets_the_number_of_one_that_was_there_before_a_thaw(fleet: Fleet, folder: Path) -> None:
    said = run_with_pauses(fleet, folder, FILES, pauses=4)
    assert len(said) > 20 and [words for words in said if words[3] != "never before"] == []


def test_batches_of_a_data_loader_come_in_order_through_many_thaws(fleet: Fleet, folder: Path) -> None:
    said = run_with_pauses(fleet, folder, BATCHES, pauses=6)
    assert len(said) > 6 and [words for words in said if words[0] != words[1]] == []

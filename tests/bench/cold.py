"""Times a built function; `measure.first_answer`, `next_answer` and `cpu` run this with what to measure in the variable
WORK. The first two are under Lambda's own runtime client; memory and CPU of a first answer go to the file PEAKS.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyperf

from tests.local.lambda_service import Function, LambdaService


def main() -> None:
    work = json.loads(os.environ["WORK"])
    folders = {"code": Path(work["code"]), "layers": tuple(map(Path, work["layers"]))}
    name = work["handler"].partition(".")[0]
    function = Function(
        name,
        name,
        f"arn:aws:lambda:us-east-1:123456789012:function:{name}",
        work["handler"],
        access_key="bench",
        environment=work["environment"],
        timeout=60,
        **folders,
    )
    event = json.dumps(work["event"]).encode()

    def answer(service: LambdaService) -> None:
        said = service.invoke(name, event)
        document = json.loads(said.payload)
        wrong = said.failed or (isinstance(document, dict) and document.get("statusCode", 200) >= 400)
        if (wrong and not work.get("refusals")) or b"UnexpectedError" in said.payload:
            raise AssertionError(said)

    def cold(loops: int) -> float:
        total = 0.0
        for _ in range(loops):
            service = LambdaService(work["endpoint"], python=work["python"])
            service.add([function])
            start, before = pyperf.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            answer(service)
            total += pyperf.perf_counter() - start
            service.close()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            unit = 1 if sys.platform == "darwin" else 1024
            with Path(os.environ["PEAKS"]).open("a", encoding="utf-8") as file:
                print(json.dumps({"cpu": cpu, "memory": after.ru_maxrss * unit}), file=file)
        return total

    def warm(loops: int) -> float:
        service = LambdaService(work["endpoint"], python=work["python"])
        service.add([function])
        try:
            answer(service)
            start = pyperf.perf_counter()
            for _ in range(loops):
                answer(service)
            return pyperf.perf_counter() - start
        finally:
            service.close()

    def cpu(loops: int) -> float:
        """In this process, without the runtime client, which is not ours and costs more than the difference."""
        os.environ.update(function.variables(work["endpoint"], ""))
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(function.code), *(str(layer / "python") for layer in function.layers)]
        handler = importlib.import_module(name).handler
        context = SimpleNamespace(
            function_name=name, aws_request_id="bench", get_remaining_time_in_millis=lambda: 20_000
        )
        if handler(work["event"], context)["statusCode"] != 200:
            raise AssertionError(name)
        start = time.process_time()
        for _ in range(loops):
            handler(work["event"], context)
        return time.process_time() - start

    runner = pyperf.Runner(program_args=("-m", "tests.bench.cold"))
    runner.bench_time_func(work["way"], {"cold": cold, "warm": warm, "cpu": cpu}[work["way"]])


if __name__ == "__main__":
    main()

"""Fine-tuning on HF accelerate: resumable, one process or many."""

from dyt.deprecated import renamed
from dyt.inference.thresholds import calibrate_thresholds
from dyt.train.evaluation import Evaluation, evaluate
from dyt.train.importance import start_routers, token_importance
from dyt.train.loop import fit
from dyt.train.named_runs import recipe, recipes
from dyt.train.result import Result
from dyt.train.spec import RunSpec, TrainSpec
from dyt.train.stand_in import start_stand_ins
from dyt.train.state import Interrupted, RunError

__all__ = [
    "Evaluation",
    "Interrupted",
    "Result",
    "RunError",
    "RunSpec",
    "TrainSpec",
    "calibrate_thresholds",
    "evaluate",
    "fit",
    "recipe",
    "recipes",
    "start_routers",
    "start_stand_ins",
    "token_importance",
]

__getattr__ = renamed(__name__, {"calibrate_rate": "calibrate_thresholds", "Report": "Evaluation"})

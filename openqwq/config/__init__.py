"""Everything a run depends on: one tree of frozen dataclasses, read from TOML."""

from openqwq.config.stages import DistillStage as DistillStage
from openqwq.config.stages import EvaluateConfig as EvaluateConfig
from openqwq.config.stages import LoraConfig as LoraConfig
from openqwq.config.stages import OptimiserConfig as OptimiserConfig
from openqwq.config.stages import PairsConfig as PairsConfig
from openqwq.config.stages import RewardConfig as RewardConfig
from openqwq.config.stages import RewardModelStage as RewardModelStage
from openqwq.config.stages import RlStage as RlStage
from openqwq.config.stages import SftStage as SftStage
from openqwq.config.stages import Stage as Stage
from openqwq.config.stages import ThinkingConfig as ThinkingConfig
from openqwq.config.toml import dump_config as dump_config
from openqwq.config.toml import find_config as find_config
from openqwq.config.toml import load_config as load_config
from openqwq.config.tree import ClusterConfig as ClusterConfig
from openqwq.config.tree import Config as Config
from openqwq.config.tree import DataConfig as DataConfig
from openqwq.config.tree import EngineConfig as EngineConfig
from openqwq.config.tree import EvaluationConfig as EvaluationConfig
from openqwq.config.tree import PlanConfig as PlanConfig
from openqwq.config.tree import SandboxConfig as SandboxConfig
from openqwq.config.tree import ShapeConfig as ShapeConfig
from openqwq.config.tree import TokenizerConfig as TokenizerConfig

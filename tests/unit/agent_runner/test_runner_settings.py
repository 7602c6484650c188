import pytest

from services.agent_runner.settings import RunnerSettings
from shared.errors import ConfigError
from shared.settings import load


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9222", "http://[::1]:9222/"])
def test_an_agent_may_act_in_a_browser_of_this_machine(url):
    assert load(RunnerSettings, attach=url).attach == url


@pytest.mark.parametrize("url", ["http://far.example:9222", "http://127.0.0.1.far.example:9222"])
def test_an_agent_acts_in_no_browser_of_another_machine(url):
    with pytest.raises(ConfigError, match="WAT_AGENT_RUNNER_ATTACH"):
        load(RunnerSettings, attach=url)

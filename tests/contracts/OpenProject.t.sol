// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";
import {IScoringRule} from "contracts/IScoringRule.sol";

import {Town} from "./Town.sol";

contract OpenProjectTest is Town {
    function testFuzz_opening_moves_the_whole_reward_into_escrow(
        uint32 rounds,
        uint96 reward,
        uint96 fee
    ) public {
        IMarketplace.Params memory p = _terms(4);
        p.rounds = uint32(_between(rounds, 1, 1000));
        p.reward = uint96(_between(reward, 0, 2 ** 84));
        p.fee = uint96(_between(fee, 0, 2 ** 84));
        bytes32 project = _open(p);
        uint256 total = uint256(p.rounds) * (uint256(p.reward) + p.fee);
        vm.assertEq(token.balanceOf(address(market)), total, "held");
        vm.assertEq(market.stateOf(project).escrow, total, "escrow");
        vm.assertEq(market.stateOf(project).sponsor, SPONSOR, "sponsor");
        _status(project, IMarketplace.Status.Bonding);
        vm.assertTrue(
            keccak256(abi.encode(market.paramsOf(project))) == keccak256(abi.encode(p)), "terms"
        );
        vm.assertTrue(
            project == keccak256(abi.encode(block.chainid, address(market), SPONSOR, 0, p)), "id"
        );
    }

    function test_the_same_terms_open_another_project() public {
        IMarketplace.Params memory p = _terms(4);
        vm.assertTrue(_open(p) != _open(p), "two projects");
    }

    function _bad(IMarketplace.Params memory p, string memory field) private {
        _refuses(abi.encodeWithSelector(IMarketplace.BadParam.selector, field));
        _open(p);
    }

    function test_terms_that_cannot_be_are_refused_by_name() public {
        IMarketplace.Params memory p = _terms(4);
        p.rule = STRANGER;
        _bad(p, "rule");
        p = _terms(4);
        p.verifier = STRANGER;
        _bad(p, "verifier");
        p = _terms(4);
        p.aggregator = address(0);
        _bad(p, "aggregator");
        p = _terms(4);
        p.slashSink = address(0);
        _bad(p, "slashSink");
        p.slashSink = SPONSOR;
        _bad(p, "slashSink");
        p.slashSink = AGGREGATOR;
        _bad(p, "slashSink");
        p = _terms(4);
        p.rounds = 0;
        _bad(p, "rounds");
        p = _terms(0);
        _bad(p, "capacity");
        p = _terms(129);
        _bad(p, "capacity");
        p = _terms(4);
        p.minUpdates = 0;
        _bad(p, "minUpdates");
        p.minUpdates = 5;
        _bad(p, "minUpdates");
        p = _terms(4);
        p.maxFailures = 0;
        _bad(p, "maxFailures");
        p = _terms(4);
        p.stepBits = 41;
        _bad(p, "stepBits");
        p = _terms(4);
        p.dimension = 0;
        _bad(p, "dimension");
        p = _terms(4);
        p.clipNorm = 0;
        _bad(p, "clipNorm");
        p = _terms(4);
        p.stake = 1 << 88;
        _bad(p, "stake");
        p = _terms(4);
        p.bond = 1 << 88;
        _bad(p, "bond");
        p = _terms(4);
        p.bondPenalty = p.bond + 1;
        _bad(p, "bondPenalty");
    }

    function test_windows_that_cannot_be_are_refused_by_name() public {
        uint32 year = 365 days;
        IMarketplace.Params memory p = _terms(4);
        p.joinWindow = year + 1;
        _bad(p, "joinWindow");
        p = _terms(4);
        p.commitWindow = 0;
        _bad(p, "commitWindow");
        p.commitWindow = year + 1;
        _bad(p, "commitWindow");
        p = _terms(4);
        p.revealWindow = 0;
        _bad(p, "revealWindow");
        p.revealWindow = year + 1;
        _bad(p, "revealWindow");
        p = _terms(4);
        p.settleWindow = 0;
        _bad(p, "settleWindow");
        p.settleWindow = year + 1;
        _bad(p, "settleWindow");
        p = _terms(4);
        p.exclusiveWindow = p.settleWindow + 1;
        _bad(p, "exclusiveWindow");
        p = _terms(4);
        p.unbondingDelay = p.commitWindow + p.revealWindow + p.settleWindow - 1;
        _bad(p, "unbondingDelay");
        p.unbondingDelay = 4 * year + 1;
        _bad(p, "unbondingDelay");
    }

    function testFuzz_a_slash_is_at_most_the_stake(uint256 k, uint16 bps) public {
        IMarketplace.Params memory p = _terms(4);
        p.slashBps = bytes32(_between(bps, 10_001, 65_535) << (16 * (k % 16)));
        _bad(p, "slashBps");
    }

    function test_a_token_without_code_is_refused() public {
        IMarketplace.Params memory p = _terms(4);
        p.token = STRANGER;
        _refuses(abi.encodeWithSelector(IMarketplace.BadParam.selector, "token"));
        _as(SPONSOR);
        market.openProject(p);
    }

    function test_an_escrow_beyond_96_bits_is_refused() public {
        IMarketplace.Params memory p = _terms(4);
        p.reward = type(uint96).max;
        _bad(p, "reward");
    }

    function test_parameters_that_the_rule_cannot_read_are_refused() public {
        IMarketplace.Params memory p = _terms(4);
        p.ruleParams = bytes32(uint256(0xbad));
        _refuses(abi.encodeWithSelector(IScoringRule.BadRuleParams.selector, p.ruleParams));
        _open(p);
    }

    function test_a_capacity_that_the_rule_could_not_settle_is_refused() public {
        IMarketplace.Params memory p = _terms(65);
        p.rule = _deploy("PeelShapley", "");
        _refuses(abi.encodeWithSelector(IScoringRule.TooManyUpdates.selector, 65, 64));
        _open(p);
        p.capacity = 64;
        _open(p);
        p = _terms(128);
        p.rule = address(krum);
        p.ruleParams = bytes32(uint256(4000) << 240 | uint256(15_000) << 224);
        _open(p);
    }

    function test_a_sponsor_without_the_money_is_refused() public {
        IMarketplace.Params memory p = _terms(4);
        uint256 total = uint256(p.rounds) * (uint256(p.reward) + p.fee);
        _fund(SPONSOR, token, total - 1);
        _refuses(
            abi.encodeWithSignature(
                "ERC20InsufficientBalance(address,uint256,uint256)", SPONSOR, total - 1, total
            )
        );
        _as(SPONSOR);
        market.openProject(p);
    }

    function test_a_project_nobody_opened_is_unknown_everywhere() public {
        bytes32 none = bytes32(uint256(1));
        bytes memory unknown = abi.encodeWithSelector(IMarketplace.UnknownProject.selector, none);
        bytes32[3] memory point;
        address[] memory nobody;
        _refuses(unknown);
        _as(STRANGER);
        market.closeProject(none);
        _refuses(unknown);
        _as(STRANGER);
        market.join(none, 0);
        _refuses(unknown);
        _as(STRANGER);
        market.commit(none, 1, 0);
        _refuses(unknown);
        _as(STRANGER);
        market.commitFor(none, 1, nobody, new bytes28[](0), new bytes[](0));
        _refuses(unknown);
        _as(STRANGER);
        market.reveal(none, point, 0);
        _refuses(unknown);
        _as(STRANGER);
        market.leave(none);
        _refuses(unknown);
        _as(STRANGER);
        market.releaseStake(none, STRANGER);
        _refuses(unknown);
        _as(STRANGER);
        market.postBond(none);
        _refuses(unknown);
        _as(STRANGER);
        market.settle(none, 1, nobody, "", "", "", "", 0);
        _refuses(unknown);
        _as(STRANGER);
        market.closeCommits(none, 1);
        _refuses(unknown);
        _as(STRANGER);
        market.expireRound(none, 1, nobody, "");
        _refuses(unknown);
        _as(STRANGER);
        market.deactivate(none, STRANGER);
        _refuses(unknown);
        _as(STRANGER);
        market.withdraw(none);
        _refuses(unknown);
        _as(STRANGER);
        market.paramsOf(none);
        _refuses(unknown);
        _as(STRANGER);
        market.stateOf(none);
        _refuses(unknown);
        _as(STRANGER);
        market.trainers(none);
    }
}

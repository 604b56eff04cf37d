// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";
import {IScoringRule} from "contracts/IScoringRule.sol";

import {Town} from "./Town.sol";

/// @dev Trainer ROOT is the root trainer.
contract RootTest is Town {
    function _rooted(uint16 n) private view returns (IMarketplace.Params memory p) {
        p = _terms(n);
        p.root = _trainer(ROOT);
    }

    /// @dev Trainers 0 to n − 1 commit and reveal, the root at place `at` among them.
    function _revealedWithRoot(bytes32 project, uint256 n, uint256 at)
        private
        returns (address[] memory who, bytes memory points)
    {
        uint32 round = _round(project);
        who = new address[](n + 1);
        for (uint256 i = 0; i <= n; ++i) {
            _commit(project, _who(i, at));
        }
        _close(project);
        for (uint256 i = 0; i <= n; ++i) {
            uint256 k = _who(i, at);
            _reveal(project, k);
            who[i] = _trainer(k);
            points = bytes.concat(points, abi.encodePacked(_point(k, round)));
        }
    }

    function _who(uint256 i, uint256 at) private pure returns (uint256) {
        return i == at ? ROOT : i < at ? i : i - 1;
    }

    function _settleWith(
        bytes32 project,
        address[] memory who,
        bytes memory points,
        bytes memory exclusions
    ) private {
        uint256 kept = who.length;
        for (uint256 i = 0; i < exclusions.length; ++i) {
            if (exclusions[i] != 0) --kept;
        }
        uint32 round = _round(project);
        _as(AGGREGATOR);
        market.settle(
            project, round, who, points, exclusions, new bytes(4 * kept * (kept + 1)), "", 0
        );
    }

    function testFuzz_the_rule_is_told_the_roots_row(uint8 many, uint8 place, uint16 out) public {
        uint16 n = uint16(_between(many, 3, 8));
        uint256 at = _between(place, 0, n);
        bytes32 project = _running(_rooted(n), n);
        (address[] memory who, bytes memory points) = _revealedWithRoot(project, n, at);
        bytes memory exclusions = new bytes(n + 1);
        uint256 row = at;
        uint256 kept = n + 1;
        for (uint256 i = 0; i <= n; ++i) {
            if ((out >> i) & 1 == 0 || kept == 2) continue;
            exclusions[i] = 0x01;
            --kept;
            if (i < at) --row;
        }
        bool absent = exclusions[at] != 0;
        script.expectRoot(absent ? kept : row);
        uint256[] memory scores = new uint256[](kept);
        for (uint256 i = 0; i < kept; ++i) {
            if (absent || i != row) scores[i] = 5 * TOKEN;
        }
        scores[absent || row != 0 ? 0 : 1] |= ONE << 192;
        script.set(scores);
        _settleWith(project, who, points, exclusions);
        vm.assertEq(market.stateOf(project).settledRounds, 1, "settled");
        vm.assertEq(_credit(project, _trainer(ROOT)), 0, "the root is paid nothing");
    }

    function test_a_root_that_stays_away_is_none() public {
        bytes32 project = _running(_rooted(2), 2);
        _commit(project, 0);
        _commit(project, 1);
        uint256 until = market.stateOf(project).commitEnd;
        _refuses(abi.encodeWithSelector(IMarketplace.CommitsMissing.selector, 1, until));
        _close(project);
        vm.warp(until);
        _close(project);
        _reveal(project, 0);
        _reveal(project, 1);
        _even(2);
        script.expectRoot(2);
        _settle(project, AGGREGATOR, 2, "");
        vm.assertEq(_credit(project, _trainer(1)), 10 * TOKEN, "pay does not wait for it");
    }

    function test_a_commit_of_the_root_is_counted_and_awaited() public {
        bytes32 project = _running(_rooted(2), 2);
        (address[] memory who, bytes memory points) = _revealedWithRoot(project, 2, 1);
        vm.assertEq(market.stateOf(project).commits, 3, "counted");
        IMarketplace.Account memory account = market.accountOf(project, _trainer(ROOT));
        vm.assertEq(account.lastCommit, 1, "its commit");
        vm.assertTrue(account.revealed, "its reveal");
        uint256 none = uint256(IMarketplace.Membership.None);
        vm.assertEq(uint256(account.membership), none, "no member");
        vm.assertEq(market.trainers(project).length, 2, "no seat");
        uint256[] memory scores = new uint256[](3);
        scores[0] = ONE << 192 | 100 * TOKEN;
        script.set(scores);
        script.expectRoot(1);
        _settleWith(project, who, points, "");
        vm.assertEq(_credit(project, _trainer(0)), 100 * TOKEN, "the pot goes to trainers");
    }

    function test_a_root_set_aside_is_recorded_and_loses_nothing() public {
        bytes32 project = _running(_rooted(2), 2);
        (address[] memory who, bytes memory points) = _revealedWithRoot(project, 2, 0);
        uint256[] memory scores = new uint256[](3);
        scores[0] = 1 << 240;
        scores[1] = ONE << 192 | 60 * TOKEN;
        scores[2] = 1 << 240;
        script.set(scores);
        script.expectRoot(0);
        _settleWith(project, who, points, "");
        vm.assertEq(market.accountOf(project, _trainer(ROOT)).strikes, 0, "no strike");
        vm.assertEq(_credit(project, SINK), 5 * TOKEN, "the outlier's stake alone");
        vm.assertEq(market.accountOf(project, _trainer(1)).strikes, 1, "whose strike it is");
    }

    function test_a_rule_that_pays_or_weighs_the_root_pays_nobody() public {
        bytes32 project = _running(_rooted(2), 2);
        (address[] memory who, bytes memory points) = _revealedWithRoot(project, 2, 2);
        script.expectRoot(2);
        uint256[4] memory wrong = [uint256(1), 1 << 192, 1 << 224, 1 << 240 | 1];
        for (uint256 i = 0; i < 4; ++i) {
            uint256[] memory scores = new uint256[](3);
            scores[0] = (i == 1 ? ONE - 1 : ONE) << 192;
            scores[2] = wrong[i];
            script.set(scores);
            _refuses(abi.encodeWithSelector(IMarketplace.RuleMisbehaved.selector, address(script)));
            _settleWith(project, who, points, "");
        }
    }

    function test_the_root_neither_joins_nor_leaves_nor_is_deactivated() public {
        bytes32 project = _running(_rooted(2), 1);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyJoined.selector, _trainer(ROOT)));
        _join(project, _trainer(ROOT));
        bytes memory none = abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(ROOT));
        _refuses(none);
        _as(_trainer(ROOT));
        market.leave(project);
        _refuses(none);
        _as(STRANGER);
        market.deactivate(project, _trainer(ROOT));
        _join(project, _trainer(1));
        vm.assertEq(market.trainers(project).length, 2, "it takes no seat");
    }

    function test_the_sponsor_may_be_the_root() public {
        IMarketplace.Params memory p = _terms(2);
        p.root = SPONSOR;
        bytes32 project = _running(p, 2);
        _as(SPONSOR);
        market.commit(project, 1, bytes28(uint224(5)));
        vm.assertEq(market.accountOf(project, SPONSOR).lastCommit, 1, "committed");
    }

    function test_only_the_root_of_this_project_commits_without_joining() public {
        bytes32 other = _running(_terms(2), 2);
        _running(_rooted(2), 2);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(ROOT)));
        _commit(other, ROOT);
    }

    function test_who_is_silent_pays_the_root_for_the_delay_like_everybody() public {
        bytes32 project = _running(_rooted(2), 2);
        (address[] memory who, bytes memory points) = _revealedWithRoot(project, 2, 1);
        vm.warp(market.stateOf(project).settleEnd);
        _as(STRANGER);
        market.expireRound(project, 1, who, points);
        uint256 each = 20 * TOKEN / uint256(3);
        vm.assertEq(_credit(project, _trainer(ROOT)), each, "root");
        vm.assertEq(_credit(project, _trainer(0)), each, "trainer");
        vm.assertEq(market.stateOf(project).bond, 100 * TOKEN - 3 * each, "bond");
    }

    function _bad(IMarketplace.Params memory p, string memory field) private {
        _refuses(abi.encodeWithSelector(IMarketplace.BadParam.selector, field));
        _open(p);
    }

    function test_a_root_that_cannot_be_is_refused() public {
        IMarketplace.Params memory p = _rooted(4);
        p.root = AGGREGATOR;
        _bad(p, "root");
        p.root = SINK;
        _bad(p, "root");
        p = _rooted(4);
        p.minUpdates = 1;
        _bad(p, "minUpdates");
        p = _rooted(128);
        _bad(p, "capacity");
        p.capacity = 127;
        _open(p);
    }

    function test_the_rule_is_asked_for_room_for_the_root() public {
        IMarketplace.Params memory p = _rooted(64);
        p.rule = _deploy("PeelShapley", "");
        _refuses(abi.encodeWithSelector(IScoringRule.TooManyUpdates.selector, 65, 64));
        _open(p);
        p.capacity = 63;
        _open(p);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

/// @dev Projects with a privacy budget of ε = 3.
contract SpendingTest is Town {
    bytes32 private constant DOMAIN = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    uint32 private constant BUDGET = 3000;
    bytes28 private constant DIGEST = bytes28(uint224(5));

    function _budgeted(uint16 n) private returns (bytes32) {
        IMarketplace.Params memory p = _terms(n);
        p.epsilonMilli = BUDGET;
        return _running(p, n);
    }

    function _spend(bytes32 project, uint256 k, uint32 milli) private {
        uint32 round = _round(project);
        bytes28 digest = _digest(project, k, round);
        address who = _trainer(k);
        _as(who);
        market.commitSpending(project, round, who, digest, milli, "");
    }

    function _spent(bytes32 project, uint256 k) private view returns (uint32) {
        return market.accountOf(project, _trainer(k)).spentMilli;
    }

    function _signed(uint256 by, bytes32 project, address trainer, uint32 milli)
        private
        view
        returns (bytes memory)
    {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN, keccak256("Tribute"), keccak256("1"), block.chainid, address(market))
        );
        bytes32 kind = keccak256(
            "CommitSpending(bytes32 project,uint32 round,address trainer,bytes28 digest,uint32 epsilonMilli)"
        );
        bytes32 content =
            keccak256(abi.encode(kind, project, _round(project), trainer, DIGEST, milli));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(by + 1, keccak256(abi.encodePacked("\x19\x01", domain, content)));
        return abi.encodePacked(r, s, v);
    }

    function testFuzz_a_commit_beyond_the_budget_is_refused(uint32 milli) public {
        bytes32 project = _budgeted(2);
        bool good = milli != 0 && milli <= BUDGET;
        if (milli == 0) {
            _refuses(abi.encodeWithSelector(IMarketplace.SpendingMissing.selector, BUDGET));
        } else if (milli > BUDGET) {
            _refuses(abi.encodeWithSelector(IMarketplace.BudgetExceeded.selector, milli, BUDGET));
        }
        _spend(project, 0, milli);
        vm.assertEq(_spent(project, 0), good ? milli : 0, "spent");
        vm.assertEq(market.accountOf(project, _trainer(0)).lastCommit, good ? 1 : 0, "committed");
        vm.assertEq(_spent(project, 1), 0, "nobody else's");
    }

    function testFuzz_what_is_spent_never_shrinks(uint32 first, uint32 second) public {
        first = uint32(_between(first, 1, BUDGET));
        second = uint32(_between(second, 1, BUDGET));
        bytes32 project = _budgeted(2);
        _spend(project, 0, first);
        _spend(project, 1, 1);
        _close(project);
        _reveal(project, 0);
        _reveal(project, 1);
        _even(2);
        _settle(project, AGGREGATOR, 2, "");
        if (second < first) {
            _refuses(abi.encodeWithSelector(IMarketplace.SpendingShrinks.selector, second, first));
        }
        _spend(project, 0, second);
        vm.assertEq(_spent(project, 0), second < first ? first : second, "spent");
    }

    function test_leaving_and_joining_again_brings_no_new_budget() public {
        IMarketplace.Params memory p = _terms(3);
        p.epsilonMilli = BUDGET;
        bytes32 project = _running(p, 3);
        _spend(project, 0, BUDGET);
        _as(_trainer(0));
        market.leave(project);
        vm.warp(block.timestamp + 6300);
        market.releaseStake(project, _trainer(0));
        _expire(project, 0);
        _join(project, _trainer(0));
        _refuses(abi.encodeWithSelector(IMarketplace.SpendingShrinks.selector, 1, BUDGET));
        _spend(project, 0, 1);
    }

    function test_who_has_a_budget_says_what_is_spent() public {
        bytes32 project = _budgeted(2);
        bytes memory missing = abi.encodeWithSelector(IMarketplace.SpendingMissing.selector, BUDGET);
        _refuses(missing);
        _commit(project, 0);
        address[] memory who = new address[](1);
        who[0] = _trainer(0);
        _refuses(missing);
        _as(STRANGER);
        market.commitFor(project, 1, who, new bytes28[](1), new bytes[](1));
    }

    function test_where_nobody_asks_there_is_nothing_to_spend() public {
        bytes32 project = _running(2);
        _refuses(abi.encodeWithSelector(IMarketplace.BudgetExceeded.selector, 1, 0));
        _spend(project, 0, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.SpendingMissing.selector, 0));
        _spend(project, 0, 0);
        _commit(project, 0);
        vm.assertEq(_spent(project, 0), 0, "nothing is kept");
    }

    function test_windows_and_membership_hold_here_too() public {
        bytes32 project = _budgeted(2);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(5)));
        _spend(project, 5, 1);
        _spend(project, 0, 1);
        address who = _trainer(0);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyCommitted.selector, who, 1));
        _as(who);
        market.commitSpending(project, 1, who, DIGEST, 2, "");
        vm.assertEq(_spent(project, 0), 1, "a refused commit spends nothing");
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, 2, 1));
        _as(who);
        market.commitSpending(project, 2, who, DIGEST, 2, "");
        uint256 end = market.stateOf(project).commitEnd;
        vm.warp(end);
        _refuses(abi.encodeWithSelector(IMarketplace.TooLate.selector, end, end));
        _spend(project, 1, 1);
    }

    function testFuzz_a_relayed_spending_is_the_one_that_was_signed(uint32 milli) public {
        milli = uint32(_between(milli, 2, BUDGET));
        bytes32 project = _budgeted(2);
        bytes memory by = _signed(0, project, _trainer(0), milli);
        bytes memory bad = abi.encodeWithSelector(IMarketplace.BadSignature.selector, 0);
        _refuses(bad);
        _as(STRANGER);
        market.commitSpending(project, 1, _trainer(0), DIGEST, milli - 1, by);
        _refuses(bad);
        _as(STRANGER);
        market.commitSpending(project, 1, _trainer(1), DIGEST, milli, by);
        _refuses(bad);
        _as(STRANGER);
        market.commitSpending(project, 1, _trainer(0), bytes28(uint224(6)), milli, by);
        _refuses(bad);
        _as(STRANGER);
        market.commitSpending(project, 1, _trainer(0), DIGEST, milli, "");
        _as(STRANGER);
        market.commitSpending(project, 1, _trainer(0), DIGEST, milli, by);
        vm.assertEq(_spent(project, 0), milli, "spent");
        vm.assertEq(market.accountOf(project, _trainer(0)).lastCommit, 1, "committed");
    }

    function test_a_root_may_share_the_budget() public {
        IMarketplace.Params memory p = _terms(2);
        p.epsilonMilli = BUDGET;
        p.root = _trainer(ROOT);
        bytes32 project = _running(p, 2);
        _refuses(abi.encodeWithSelector(IMarketplace.SpendingMissing.selector, BUDGET));
        _commit(project, ROOT);
        _spend(project, ROOT, 1);
        _spend(project, 0, 1);
        _spend(project, 1, BUDGET);
        _close(project);
        vm.assertEq(market.stateOf(project).commits, 3, "all three");
    }
}

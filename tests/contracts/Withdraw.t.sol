// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {BlockingToken, CallingToken, FalseToken, FeeToken, SilentToken} from "./OddTokens.sol";
import {IMintable, Town} from "./Town.sol";

contract WithdrawTest is Town {
    bytes4 private constant REENTRY = bytes4(keccak256("ReentrancyGuardReentrantCall()"));

    function testFuzz_a_credit_is_paid_whole_and_once(uint96 share) public {
        bytes32 project = _running(2);
        uint256[] memory shares = new uint256[](2);
        shares[0] = _between(share, 1, 100 * TOKEN);
        _script(shares);
        _play(project, 2);
        uint256 before = token.balanceOf(_trainer(0));
        _as(_trainer(0));
        vm.assertEq(market.withdraw(project), shares[0], "returned");
        vm.assertEq(token.balanceOf(_trainer(0)), before + shares[0], "received");
        _refuses(abi.encodeWithSelector(IMarketplace.NothingToWithdraw.selector, _trainer(0)));
        _as(_trainer(0));
        market.withdraw(project);
        _refuses(abi.encodeWithSelector(IMarketplace.NothingToWithdraw.selector, _trainer(1)));
        _as(_trainer(1));
        market.withdraw(project);
    }

    function _with(address odd) private view returns (IMarketplace.Params memory p) {
        p = _terms(2);
        p.token = odd;
    }

    function test_a_token_that_takes_a_fee_is_refused_by_name() public {
        IMarketplace.Params memory p = _with(address(new FeeToken()));
        uint256 asked = 315 * TOKEN;
        _refuses(
            abi.encodeWithSelector(IMarketplace.TokenTookFee.selector, asked, asked - asked / 100)
        );
        _open(p);
    }

    function test_a_token_that_returns_nothing_works() public {
        SilentToken odd = new SilentToken();
        bytes32 project = _running(_with(address(odd)), 2);
        _even(2);
        _play(project, 2);
        _as(_trainer(0));
        market.withdraw(project);
        vm.assertEq(odd.balanceOf(_trainer(0)), 10 * TOKEN, "paid");
    }

    function test_a_token_that_says_false_is_refused_by_name() public {
        FalseToken odd = new FalseToken();
        bytes memory failed =
            abi.encodeWithSignature("SafeERC20FailedOperation(address)", address(odd));
        bytes32 project = _running(_with(address(odd)), 2);
        _even(2);
        _play(project, 2);
        odd.set(true);
        _refuses(failed);
        _open(_with(address(odd)));
        _refuses(failed);
        _as(_trainer(0));
        market.withdraw(project);
        vm.assertEq(_credit(project, _trainer(0)), 10 * TOKEN, "the credit stays");
    }

    function test_a_receiver_who_is_blocked_stops_nobody_else() public {
        BlockingToken odd = new BlockingToken();
        bytes32 project = _running(_with(address(odd)), 2);
        odd.set(_trainer(0), true);
        odd.set(SINK, true);
        uint256[] memory shares = new uint256[](2);
        (shares[0], shares[1]) = (10 * TOKEN, type(uint256).max);
        _script(shares);
        _play(project, 2);
        _refuses(abi.encodeWithSelector(BlockingToken.Blocked.selector, _trainer(0)));
        _as(_trainer(0));
        market.withdraw(project);
        _as(AGGREGATOR);
        market.withdraw(project);
        vm.assertEq(odd.balanceOf(AGGREGATOR), 5 * TOKEN, "the fee");
    }

    /// @dev Every action that moves money refuses to be entered again.
    function test_a_token_that_re_enters_gets_nothing() public {
        CallingToken odd = new CallingToken();
        bytes32 project = _running(_with(address(odd)), 2);
        // The token itself is somebody here: sponsor of a project of its own with a credit to take.
        IMarketplace.Params memory own = _with(address(odd));
        odd.mint(address(odd), 315 * TOKEN);
        vm.prank(address(odd));
        odd.approve(address(market), type(uint256).max);
        vm.prank(address(odd));
        bytes32 its = market.openProject(own);
        vm.prank(address(odd));
        market.closeProject(its);
        _even(2);
        _play(project, 2);

        bytes[5] memory calls = [
            abi.encodeCall(IMarketplace.withdraw, (its)),
            abi.encodeCall(IMarketplace.openProject, (own)),
            abi.encodeCall(IMarketplace.join, (project, bytes32(0))),
            abi.encodeCall(IMarketplace.postBond, (its)),
            abi.encodeCall(
                IMarketplace.settle,
                (
                    project,
                    2,
                    new address[](0),
                    bytes(""),
                    bytes(""),
                    bytes(""),
                    bytes(""),
                    bytes32(0)
                )
            )
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            odd.set(market, calls[i]);
            if (i == 0) {
                _as(_trainer(0));
                market.withdraw(project);
            } else {
                _open(_with(address(odd)));
            }
            vm.assertTrue(!odd.succeeded() && bytes4(odd.answer()) == REENTRY, "re-entered");
        }
        vm.assertEq(odd.balanceOf(_trainer(0)), 10 * TOKEN, "paid once");
        vm.assertEq(_credit(its, address(odd)), 315 * TOKEN, "its own credit waits for it");
    }

    /// @dev What is not guarded moves no money, and finds all of it booked.
    function test_what_may_be_entered_in_the_middle_finds_the_books_right() public {
        CallingToken odd = new CallingToken();
        odd.mint(address(odd), 315 * TOKEN);
        vm.prank(address(odd));
        odd.approve(address(market), type(uint256).max);
        bytes32 project = keccak256(
            abi.encode(block.chainid, address(market), address(odd), 0, _with(address(odd)))
        );
        odd.set(market, abi.encodeCall(IMarketplace.closeProject, (project)));
        vm.prank(address(odd));
        market.openProject(_with(address(odd)));
        vm.assertTrue(odd.succeeded(), "closed while it was paid for");
        vm.prank(address(odd));
        market.withdraw(project);
        vm.assertEq(odd.balanceOf(address(market)), 0, "nothing more came out than went in");
        vm.assertEq(IMintable(address(odd)).balanceOf(address(odd)), 315 * TOKEN, "all of it");
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {IMintable, Town} from "./Town.sol";

/// @dev Does whatever is allowed at the moment, in three projects, the second with a root, and two
/// tokens, and checks what each settlement moved. An action that is not allowed now does nothing, so that none may revert.
contract Actors is Town {
    uint256 internal constant CROWD = 6;

    bytes32[3] public projects;
    IMintable[2] public monies;
    address[] public people;
    uint256 public settlements;
    mapping(bytes32 => address[]) private _revealers;
    mapping(bytes32 => bytes) private _points;
    mapping(bytes32 => uint32) private _listed;

    function setUp() public override {
        super.setUp();
        monies[0] = token;
        monies[1] = IMintable(_deploy("TestToken", ""));
        for (uint16 i = 0; i < 3; ++i) {
            IMarketplace.Params memory p = _terms(3 + i);
            p.token = address(monies[i / 2]);
            p.rounds = 4;
            p.reward = 100 * TOKEN + i;
            p.maxFailures = uint8(2 + i);
            p.bondPenalty = 33 * TOKEN + 1;
            if (i == 1) p.root = _trainer(ROOT);
            projects[i] = _open(p);
        }
        for (uint256 k = 0; k < CROWD; ++k) {
            people.push(_trainer(k));
        }
        for (uint256 i = 0; i < 2; ++i) {
            _bond(projects[i]);
            for (uint256 k = 0; k < 3 + i; ++k) {
                _join(projects[i], _trainer(k));
            }
        }
        people.push(_trainer(ROOT));
        people.push(SPONSOR);
        people.push(AGGREGATOR);
        people.push(SINK);
        people.push(STRANGER);
    }

    function _pick(uint256 seed)
        private
        view
        returns (bytes32 project, IMarketplace.State memory state)
    {
        project = projects[seed % 3];
        state = market.stateOf(project);
    }

    function _isRunning(IMarketplace.State memory state) private pure returns (bool) {
        return state.status == IMarketplace.Status.Running;
    }

    function advance(uint16 time) external {
        vm.warp(block.timestamp + time % 1500);
    }

    function bond(uint256 seed) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (state.status == IMarketplace.Status.Bonding) _bond(project);
    }

    function join(uint256 seed, uint256 k) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state) || state.active == market.paramsOf(project).capacity) return;
        address who = _trainer(k % CROWD);
        if (market.accountOf(project, who).membership == IMarketplace.Membership.None) {
            _join(project, who);
        }
    }

    function commit(uint256 seed) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state) || block.timestamp < state.opensAt) return;
        if (block.timestamp >= state.commitEnd) return;
        for (uint256 k = 0; k < CROWD; ++k) {
            if ((seed >> k) & 7 == 0) continue;
            IMarketplace.Account memory account = market.accountOf(project, _trainer(k));
            if (account.membership != IMarketplace.Membership.Active) continue;
            if (account.lastCommit != state.round) _commit(project, k);
        }
        bool absent = market.accountOf(project, _trainer(ROOT)).lastCommit != state.round;
        if (_hasRoot(project) && absent && seed % 4 != 0) _commit(project, ROOT);
    }

    function _hasRoot(bytes32 project) private view returns (bool) {
        return project == projects[1];
    }

    function close(uint256 seed) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state) || block.timestamp < state.opensAt || state.commits != 0) return;
        uint256 commits = 0;
        for (uint256 k = 0; k < CROWD; ++k) {
            IMarketplace.Account memory account = market.accountOf(project, _trainer(k));
            bool active = account.membership == IMarketplace.Membership.Active;
            if (active && account.lastCommit == state.round) ++commits;
        }
        uint256 awaited = state.active;
        if (_hasRoot(project)) {
            ++awaited;
            if (market.accountOf(project, _trainer(ROOT)).lastCommit == state.round) ++commits;
        }
        if (block.timestamp < state.commitEnd && (commits < awaited || commits < 2)) return;
        _close(project);
    }

    function reveal(uint256 seed) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state) || block.timestamp < state.commitEnd) return;
        if (block.timestamp >= state.revealEnd) return;
        if (_listed[project] != state.round) {
            delete _revealers[project];
            delete _points[project];
            _listed[project] = state.round;
        }
        for (uint256 i = 0; i < CROWD; ++i) {
            uint256 k = (i + seed % CROWD) % CROWD;
            if ((seed >> k) & 7 == 0) continue;
            _revealOne(project, state.round, k);
        }
        if (_hasRoot(project) && seed % 3 != 0) _revealOne(project, state.round, ROOT);
    }

    function _revealOne(bytes32 project, uint32 round, uint256 k) private {
        IMarketplace.Account memory account = market.accountOf(project, _trainer(k));
        if (account.lastCommit != round || account.revealed) return;
        _reveal(project, k);
        _revealers[project].push(_trainer(k));
        _points[project] = bytes.concat(_points[project], abi.encodePacked(_point(k, round)));
    }

    function settle(uint256 seed, bool stranger) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state) || state.reveals == 0 || block.timestamp >= state.settleEnd) return;
        bool complete = state.commits != 0 && state.reveals == state.commits;
        if (!complete && block.timestamp < state.revealEnd) return;
        if (stranger && block.timestamp < state.revealEnd + 300) return;
        address settler = stranger ? STRANGER : AGGREGATOR;
        uint256 n = state.reveals;
        bytes memory exclusions = new bytes(stranger || seed % 5 != 0 ? 0 : n);
        uint256 kept = n;
        for (uint256 i = 0; i < exclusions.length; ++i) {
            if ((seed >> (3 * i)) % 3 != 0) continue;
            exclusions[i] = 0x02;
            --kept;
        }
        _scores(project, seed, exclusions, kept);
        _send(project, state, settler, exclusions, kept);
    }

    /// @dev The first trainer's update has all the weight, the root's nothing.
    function _scores(bytes32 project, uint256 seed, bytes memory exclusions, uint256 kept) private {
        uint256 pot = market.paramsOf(project).reward;
        uint256[] memory scores = new uint256[](kept);
        uint256 root = _row(project, exclusions, kept);
        bool weighed = false;
        for (uint256 k = 0; k < kept; ++k) {
            uint256 word = uint256(keccak256(abi.encode(seed, k)));
            if ((k == root || weighed) && word % 4 == 0) {
                scores[k] = 1 << 240;
            } else if (k != root) {
                scores[k] = word % (pot + 1);
                pot -= scores[k];
                if (!weighed) scores[k] |= ONE << 192;
                weighed = true;
            }
        }
        script.set(scores);
        script.expectRoot(root);
    }

    function _row(bytes32 project, bytes memory exclusions, uint256 kept)
        private
        view
        returns (uint256 row)
    {
        for (uint256 i = 0; i < _revealers[project].length; ++i) {
            bool out = exclusions.length != 0 && exclusions[i] != 0;
            if (_hasRoot(project) && _revealers[project][i] == _trainer(ROOT)) {
                return out ? kept : row;
            }
            if (!out) ++row;
        }
    }

    function _send(
        bytes32 project,
        IMarketplace.State memory before,
        address settler,
        bytes memory exclusions,
        uint256 kept
    ) private {
        uint256[] memory stakes = new uint256[](CROWD);
        for (uint256 k = 0; k < CROWD; ++k) {
            stakes[k] = _stake(project, _trainer(k));
        }
        uint256 had = _credit(project, settler);
        vm.prank(settler);
        market.settle(
            project,
            before.round,
            _revealers[project],
            _points[project],
            exclusions,
            new bytes(4 * kept * (kept + 1)),
            "",
            0
        );
        IMarketplace.Params memory p = market.paramsOf(project);
        IMarketplace.State memory state = market.stateOf(project);
        bool paid = kept >= p.minUpdates;
        uint256 gained = _credit(project, settler) - had;
        if (state.status != IMarketplace.Status.Running && settler == AGGREGATOR) {
            gained -= before.bond - (paid || before.reveals < p.minUpdates ? 0 : _least(p, before));
        }
        vm.assertEq(gained, paid ? p.fee : 0, "a settler gains the fee alone");
        vm.assertLe(before.escrow - state.escrow, paid ? p.reward + p.fee : 0, "a pot at most");
        vm.assertEq(state.settledRounds, before.settledRounds + (paid ? 1 : 0), "paid once");
        for (uint256 k = 0; k < CROWD; ++k) {
            vm.assertLe(_stake(project, _trainer(k)), stakes[k], "a stake never grows");
        }
        if (paid) ++settlements;
    }

    function _least(IMarketplace.Params memory p, IMarketplace.State memory state)
        private
        pure
        returns (uint256)
    {
        return p.bondPenalty < state.bond ? p.bondPenalty : state.bond;
    }

    function expire(uint256 seed) public {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        if (!_isRunning(state)) return;
        bool silent = state.reveals >= market.paramsOf(project).minUpdates;
        if (block.timestamp < (silent ? state.settleEnd : state.revealEnd)) return;
        market.expireRound(project, state.round, _revealers[project], _points[project]);
    }

    function leave(uint256 seed, uint256 k) external {
        (bytes32 project,) = _pick(seed);
        address who = _trainer(k % CROWD);
        IMarketplace.Membership membership = market.accountOf(project, who).membership;
        bool inside = membership == IMarketplace.Membership.Active
            || membership == IMarketplace.Membership.Inactive;
        if (!inside || seed % 5 != 0) return;
        vm.prank(who);
        market.leave(project);
    }

    function release(uint256 seed, uint256 k) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        address who = _trainer(k % CROWD);
        IMarketplace.Account memory account = market.accountOf(project, who);
        if (account.membership != IMarketplace.Membership.Leaving) return;
        if (_isRunning(state) && block.timestamp < account.exitAt) return;
        market.releaseStake(project, who);
    }

    function deactivate(uint256 seed, uint256 k) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        address who = _trainer(k % CROWD);
        IMarketplace.Account memory account = market.accountOf(project, who);
        if (!_isRunning(state) || account.membership != IMarketplace.Membership.Active) return;
        if (state.round < account.lastCommit + 3) return;
        market.deactivate(project, who);
    }

    function withdraw(uint256 seed, uint256 k) external {
        (bytes32 project,) = _pick(seed);
        address who = people[k % people.length];
        if (_credit(project, who) == 0) return;
        vm.prank(who);
        market.withdraw(project);
    }

    function closeProject(uint256 seed) external {
        (bytes32 project, IMarketplace.State memory state) = _pick(seed);
        bool over = state.status == IMarketplace.Status.Finished
            || state.status == IMarketplace.Status.Halted;
        if (!over) return;
        vm.prank(SPONSOR);
        market.closeProject(project);
    }

    /// @dev What the contract should hold of a token.
    function owed(uint256 which) public view returns (uint256 sum) {
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 project = projects[i];
            if (i / 2 != which) continue;
            IMarketplace.State memory state = market.stateOf(project);
            sum += uint256(state.escrow) + state.bond;
            for (uint256 k = 0; k < people.length; ++k) {
                sum += _credit(project, people[k]) + _stake(project, people[k]);
            }
        }
    }

    function held(uint256 which) public view returns (uint256) {
        return monies[which].balanceOf(address(market));
    }

    /// @dev Everybody takes what is theirs, the aggregator being silent from now on.
    function everybodyGoes() external {
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 project = projects[i];
            while (_isRunning(market.stateOf(project))) {
                vm.warp(uint256(market.stateOf(project).settleEnd));
                expire(i);
            }
            for (uint256 k = 0; k < CROWD; ++k) {
                IMarketplace.Membership membership =
                market.accountOf(project, _trainer(k)).membership;
                if (membership == IMarketplace.Membership.None) continue;
                if (membership == IMarketplace.Membership.Leaving) {
                    market.releaseStake(project, _trainer(k));
                } else {
                    vm.prank(_trainer(k));
                    market.leave(project);
                }
            }
            if (market.stateOf(project).status != IMarketplace.Status.Closed) {
                vm.prank(SPONSOR);
                market.closeProject(project);
            }
            for (uint256 k = 0; k < people.length; ++k) {
                if (_credit(project, people[k]) == 0) continue;
                vm.prank(people[k]);
                market.withdraw(project);
            }
        }
    }
}

contract MoneyTest is Town {
    Actors private _actors;

    function setUp() public override {
        _actors = new Actors();
        _actors.setUp();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_actors);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    /// @dev The actions, those that make a round advance more often than the others.
    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[20] memory chosen = [
            Actors.advance.selector,
            Actors.advance.selector,
            Actors.bond.selector,
            Actors.join.selector,
            Actors.join.selector,
            Actors.commit.selector,
            Actors.commit.selector,
            Actors.close.selector,
            Actors.close.selector,
            Actors.reveal.selector,
            Actors.reveal.selector,
            Actors.settle.selector,
            Actors.settle.selector,
            Actors.settle.selector,
            Actors.expire.selector,
            Actors.leave.selector,
            Actors.release.selector,
            Actors.deactivate.selector,
            Actors.withdraw.selector,
            Actors.closeProject.selector
        ];
        targets = new FuzzSelector[](1);
        targets[0].addr = address(_actors);
        targets[0].selectors = new bytes4[](20);
        for (uint256 i = 0; i < 20; ++i) {
            targets[0].selectors[i] = chosen[i];
        }
    }

    function invariant_the_balance_is_what_is_owed_to_the_last_unit() public view {
        for (uint256 which = 0; which < 2; ++which) {
            vm.assertEq(_actors.held(which), _actors.owed(which), "balance");
        }
    }

    /// @dev Not by chance: these actors do get rounds settled, and go on after rounds that failed.
    function test_the_actors_settle_rounds() external {
        bytes4[] memory chosen = this.targetSelectors()[0].selectors;
        for (uint256 i = 0; i < 900; ++i) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            (bool done,) = address(_actors)
                .call(
                    bytes.concat(chosen[seed % 20], abi.encode(seed >> 8 & 0xffff, seed >> 32 & 1))
                );
            vm.assertTrue(done, "an action that is not allowed does nothing");
        }
        vm.assertLe(4, _actors.settlements(), "settled");
        this.afterInvariant();
    }

    function afterInvariant() external {
        _actors.everybodyGoes();
        for (uint256 which = 0; which < 2; ++which) {
            vm.assertEq(_actors.held(which), 0, "nothing stays behind");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IGramVerifier} from "./IGramVerifier.sol";
import {IMarketplace} from "./IMarketplace.sol";
import {IScoringRule} from "./IScoringRule.sol";

/// @title Tribute marketplace
/// @dev Every action has the same shape: checks, arithmetic, writes, event, transfer last.
/// What trainers touch each round is packed: `Clock` is all that `commit` reads of a project, a
/// ticket all it writes of a trainer, `Member` all that `settle` writes of one.
///
/// Slither 0.11.6 remarks, by intention: clocks are compared (windows are minutes at least), n comes
/// from a length by division and sizes from n, equal parts of a penalty round down and only their sum
/// is taken, and `_projects` is a mapping, which nothing initializes.
contract Marketplace is IMarketplace, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// One slot: where the current round stands.
    struct Clock {
        Status status;
        uint8 failures;
        uint16 active;
        uint16 commits;
        uint32 round;
        uint40 opensAt;
        uint40 commitEnd;
        uint40 revealEnd;
        uint40 settleEnd;
        /// reveals of trainers who went before the commits were counted
        uint8 departed;
        /// what a project has that others need not pay for: a root, a privacy budget
        uint8 flags;
    }

    /// One slot: the project's money and how many rounds it paid.
    struct Purse {
        uint96 escrow;
        uint96 bond;
        uint32 settledRounds;
    }

    struct Project {
        Clock clock;
        Purse purse;
        /// the reveals' running hash in 31 bytes, their number in the last one
        bytes32 reveals;
        address sponsor;
        Params params;
        address[] active;
    }

    /// One slot: what an address owns in a project, and its standing. A credit has room for all
    /// that a token with 2^96 units can bring, so that nobody's can stop a settlement by overflow.
    struct Member {
        uint88 stake;
        uint128 credit;
        uint8 strikes;
        Membership membership;
        uint16 index;
    }

    /// One slot: an active trainer's last commit, its digest in 28 bytes, zero once revealed, and its
    /// round in the last 4. Never zero while a trainer is active, so that no commit pays for a fresh
    /// slot. In one word, because the compiler would write two fields one after the other.
    /// A digest of zero, which nobody knows a point for, counts as revealed and is worth nothing.
    struct Ticket {
        bytes32 word;
    }

    uint256 private constant ONE = 1 << 16;
    /// What a record says of an outlier, and what a rule may say of anybody else: share and weight.
    uint256 private constant OUTLIER = 1 << 240;
    uint256 private constant SCORE_BITS = uint256(type(uint32).max) << 192 | type(uint96).max;
    uint256 private constant MAX_CAPACITY = 128;
    uint256 private constant MAX_WINDOW = 365 days;
    uint256 private constant POINT_BYTES = 96;
    uint8 private constant HAS_ROOT = 1;
    uint8 private constant HAS_BUDGET = 2;
    /// The status in a clock's word, and with the flag that a commit without spending must not meet.
    uint256 private constant ANY = type(uint8).max;
    uint256 private constant PLAIN = ANY | uint256(HAS_BUDGET) << 248;
    bytes28 private constant NO_DIGEST = bytes28(uint224(1));
    bytes32 private constant COMMIT_TYPEHASH =
        keccak256("Commit(bytes32 project,uint32 round,address trainer,bytes28 digest)");
    bytes32 private constant SPENDING_TYPEHASH = keccak256(
        "CommitSpending(bytes32 project,uint32 round,address trainer,bytes28 digest,uint32 epsilonMilli)"
    );

    mapping(bytes32 project => Project) private _projects;
    mapping(bytes32 project => mapping(address account => Member)) private _members;
    mapping(bytes32 project => mapping(address account => Ticket)) private _tickets;
    mapping(bytes32 project => mapping(address account => uint40)) private _exitAt;
    mapping(bytes32 project => mapping(address account => uint32)) private _spentMilli;
    mapping(address sponsor => uint256) private _nonces;

    constructor() EIP712("Tribute", "1") {}

    // ---------------------------------------------------------------- sponsor

    /// @inheritdoc IMarketplace
    function openProject(Params calldata p) external nonReentrant returns (bytes32 project) {
        _checkParams(p);
        uint256 total = uint256(p.rounds) * (uint256(p.reward) + p.fee);
        if (total > type(uint96).max) revert BadParam("reward");

        project = keccak256(
            abi.encode(block.chainid, address(this), msg.sender, _nonces[msg.sender]++, p)
        );
        Project storage s = _projects[project];
        s.sponsor = msg.sender;
        s.params = p;
        s.clock.status = Status.Bonding;
        s.purse.escrow = uint96(total);
        if (p.epsilonMilli != 0) s.clock.flags = HAS_BUDGET;
        uint256 rows = p.capacity;
        if (p.root != address(0)) {
            s.clock.flags |= HAS_ROOT;
            _tickets[project][p.root].word = _ticket(0, NO_DIGEST);
            ++rows;
        }
        emit ProjectOpened(project, msg.sender, p);

        IScoringRule(p.rule).checkParams(p.ruleParams, rows);
        _pull(p.token, total);
    }

    /// @inheritdoc IMarketplace
    function closeProject(bytes32 project) external {
        Project storage s = _known(project);
        if (msg.sender != s.sponsor) revert NotSponsor(msg.sender);
        Status status = s.clock.status;
        if (status != Status.Bonding && status != Status.Finished && status != Status.Halted) {
            revert WrongStatus(status);
        }
        uint96 refund = s.purse.escrow;
        s.purse.escrow = 0;
        s.clock.status = Status.Closed;
        _members[project][msg.sender].credit += refund;
        emit ProjectClosed(project, refund);
    }

    // --------------------------------------------------------------- trainers

    /// @inheritdoc IMarketplace
    function join(bytes32 project, bytes32 encryptionKey) external nonReentrant {
        Project storage s = _running(project);
        Params storage p = s.params;
        Member storage m = _members[project][msg.sender];
        if (m.membership != Membership.None || msg.sender == p.root) {
            revert AlreadyJoined(msg.sender);
        }
        Clock memory clock = s.clock;
        if (clock.active == p.capacity) revert ProjectFull(clock.active);

        uint16 index = clock.active++;
        s.active.push(msg.sender);
        m.membership = Membership.Active;
        m.index = index;
        m.stake = uint88(p.stake);
        _tickets[project][msg.sender].word = _ticket(clock.round - 1, NO_DIGEST);
        if (clock.round == 1 && clock.active == p.capacity && block.timestamp < clock.opensAt) {
            _open(clock, p, block.timestamp);
        }
        s.clock = clock;
        emit Joined(project, msg.sender, index, encryptionKey);

        _pull(p.token, p.stake);
    }

    /// @inheritdoc IMarketplace
    function commit(bytes32 project, uint32 round, bytes28 digest) external {
        _inCommitWindow(project, round, PLAIN);
        Ticket storage ticket = _tickets[project][msg.sender];
        bytes32 last = ticket.word;
        if (last == 0) revert NotTrainer(msg.sender);
        if (_round(last) == round) revert AlreadyCommitted(msg.sender, round);
        ticket.word = _ticket(round, digest);
        emit Committed(project, msg.sender, round);
    }

    /// @inheritdoc IMarketplace
    function commitSpending(
        bytes32 project,
        uint32 round,
        address trainer,
        bytes28 digest,
        uint32 epsilonMilli,
        bytes calldata signature
    ) external {
        _inCommitWindow(project, round, ANY);
        uint32 budget = _projects[project].params.epsilonMilli;
        uint32 before = _spentMilli[project][trainer];
        if (epsilonMilli == 0) revert SpendingMissing(budget);
        if (epsilonMilli > budget) revert BudgetExceeded(epsilonMilli, budget);
        if (epsilonMilli < before) revert SpendingShrinks(epsilonMilli, before);
        if (msg.sender != trainer) {
            bytes32 message = _hashTypedDataV4(
                keccak256(
                    abi.encode(SPENDING_TYPEHASH, project, round, trainer, digest, epsilonMilli)
                )
            );
            if (!SignatureChecker.isValidSignatureNowCalldata(trainer, message, signature)) {
                revert BadSignature(0);
            }
        }
        _spentMilli[project][trainer] = epsilonMilli;
        _commitFor(project, round, trainer, digest);
        emit PrivacySpent(project, trainer, round, epsilonMilli);
    }

    /// @inheritdoc IMarketplace
    function commitFor(
        bytes32 project,
        uint32 round,
        address[] calldata signers,
        bytes28[] calldata digests,
        bytes[] calldata signatures
    ) external {
        if (digests.length != signers.length) {
            revert LengthMismatch(signers.length, digests.length);
        }
        if (signatures.length != signers.length) {
            revert LengthMismatch(signers.length, signatures.length);
        }
        _inCommitWindow(project, round, PLAIN);
        for (uint256 i = 0; i < signers.length; ++i) {
            address trainer = signers[i];
            bytes32 message = _hashTypedDataV4(
                keccak256(abi.encode(COMMIT_TYPEHASH, project, round, trainer, digests[i]))
            );
            if (!SignatureChecker.isValidSignatureNowCalldata(trainer, message, signatures[i])) {
                revert BadSignature(i);
            }
            _commitFor(project, round, trainer, digests[i]);
        }
    }

    /// @inheritdoc IMarketplace
    function reveal(bytes32 project, bytes32[3] calldata point, bytes32 cid) external {
        Project storage s = _projects[project];
        Clock storage clock = s.clock;
        uint256 word;
        assembly ("memory-safe") {
            word := sload(clock.slot)
        }
        if (word & ANY != uint256(Status.Running)) _refuseStatus(clock.status, project);
        if (block.timestamp < clock.commitEnd) revert TooEarly(block.timestamp, clock.commitEnd);
        if (block.timestamp >= clock.revealEnd) revert TooLate(block.timestamp, clock.revealEnd);
        uint32 round = clock.round;
        Ticket storage ticket = _tickets[project][msg.sender];
        bytes28 digest = commitDigest(project, round, msg.sender, point, cid);
        if (ticket.word != _ticket(round, digest)) _refuseReveal(ticket.word, round, digest);

        ticket.word = _ticket(round, 0);
        uint256 at;
        assembly ("memory-safe") {
            at := point
        }
        bytes32 reveals = s.reveals;
        unchecked {
            s.reveals = _fold(reveals, msg.sender, at) | bytes32(_count(reveals) + 1);
        }
        emit Revealed(project, msg.sender, round, point, cid);
    }

    /// @inheritdoc IMarketplace
    function leave(bytes32 project) external {
        Project storage s = _known(project);
        Member storage m = _members[project][msg.sender];
        Membership membership = m.membership;
        if (membership != Membership.Active && membership != Membership.Inactive) {
            revert NotTrainer(msg.sender);
        }
        if (membership == Membership.Active) _dropActive(project, s, msg.sender);
        bool ended = s.clock.status != Status.Running;
        // A settlement that is still possible must find the stake that it may slash.
        uint40 exitAt = uint40(block.timestamp + (ended ? 0 : s.params.unbondingDelay));
        m.membership = Membership.Leaving;
        _exitAt[project][msg.sender] = exitAt;
        emit LeaveRequested(project, msg.sender, exitAt);
        if (ended) _releaseStake(project, msg.sender);
    }

    /// @inheritdoc IMarketplace
    function releaseStake(bytes32 project, address trainer) external {
        Project storage s = _known(project);
        if (_members[project][trainer].membership != Membership.Leaving) {
            revert NotTrainer(trainer);
        }
        uint40 exitAt = _exitAt[project][trainer];
        if (s.clock.status == Status.Running && block.timestamp < exitAt) {
            revert StillUnbonding(block.timestamp, exitAt);
        }
        _releaseStake(project, trainer);
    }

    // -------------------------------------------------------------- aggregator

    /// @inheritdoc IMarketplace
    function postBond(bytes32 project) external nonReentrant {
        Project storage s = _known(project);
        Params storage p = s.params;
        Clock memory clock = s.clock;
        if (clock.status != Status.Bonding) revert WrongStatus(clock.status);
        if (msg.sender != p.aggregator) revert NotAggregator(msg.sender);
        clock.status = Status.Running;
        clock.round = 1;
        _open(clock, p, block.timestamp + p.joinWindow);
        s.clock = clock;
        s.reveals = _seed(1);
        uint96 bond = p.bond;
        s.purse.bond = bond;
        emit Bonded(project, bond, clock.opensAt);

        _pull(p.token, bond);
    }

    /// @inheritdoc IMarketplace
    function settle(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points,
        bytes calldata exclusions,
        bytes calldata gram,
        bytes calldata proof,
        bytes32 modelCid
    ) external nonReentrant {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        bytes32 reveals = s.reveals;
        _checkSettler(s.params, clock, round, _count(reveals), exclusions.length);
        _checkReveals(reveals, round, revealers, points);
        if (exclusions.length != 0 && exclusions.length != revealers.length) {
            revert LengthMismatch(revealers.length, exclusions.length);
        }

        bytes memory included = _included(points, exclusions);
        uint256 n = included.length / POINT_BYTES;
        uint256 least = s.params.minUpdates;
        if (n < least) {
            // To shut out enough to stop a round is no cheaper than to be silent. The sink gets the
            // penalty, because those who were excluded may have deserved it.
            uint96 lost = revealers.length < least ? 0 : _penalty(s);
            if (lost != 0) {
                s.purse.bond -= lost;
                _members[project][s.params.slashSink].credit += lost;
            }
            _failRound(project, s, clock, lost, exclusions);
            return;
        }
        if (gram.length != 4 * n * (n + 1)) revert LengthMismatch(4 * n * (n + 1), gram.length);
        _checkDuplicates(included, n);
        _checkGram(project, round, s.params, included, gram, proof);

        uint256 root = n;
        if (clock.flags & HAS_ROOT != 0) root = _row(s.params.root, revealers, exclusions, n);
        bytes memory records = _pay(project, s, revealers, exclusions, gram, n, root);
        emit Settled(project, round, msg.sender, modelCid, records, gram);

        clock = s.clock;
        clock.failures = 0;
        if (++s.purse.settledRounds == s.params.rounds) _end(project, s, clock, Status.Finished);
        else _nextRound(s, clock);
    }

    // ----------------------------------------------------------------- anybody

    /// @inheritdoc IMarketplace
    function closeCommits(bytes32 project, uint32 round) external {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        if (round != clock.round) revert WrongRound(round, clock.round);
        if (block.timestamp < clock.opensAt) revert TooEarly(block.timestamp, clock.opensAt);
        if (clock.commits != 0) revert TooLate(block.timestamp, clock.commitEnd);
        uint256 count = s.active.length;
        uint256 commits = 0;
        for (uint256 i = 0; i < count; ++i) {
            if (_round(_tickets[project][s.active[i]].word) == round) ++commits;
        }
        if (clock.flags & HAS_ROOT != 0) {
            ++count;
            if (_round(_tickets[project][s.params.root].word) == round) ++commits;
        }
        if (block.timestamp < clock.commitEnd) {
            // With fewer than the rule needs, the round would be lost: others may still join it.
            uint256 needed = Math.max(count, s.params.minUpdates);
            if (commits < needed) revert CommitsMissing(needed - commits, clock.commitEnd);
            clock.commitEnd = uint40(block.timestamp);
            clock.revealEnd = clock.commitEnd + s.params.revealWindow;
            clock.settleEnd = clock.revealEnd + s.params.settleWindow;
        }
        clock.commits = uint16(commits + clock.departed);
        s.clock = clock;
        emit CommitsClosed(project, round, clock.commits);
    }

    /// @inheritdoc IMarketplace
    function expireRound(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points
    ) external {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        if (round != clock.round) revert WrongRound(round, clock.round);
        bytes32 reveals = s.reveals;
        uint256 count = _count(reveals);
        bool silent = count >= s.params.minUpdates;
        uint256 from = silent ? clock.settleEnd : clock.revealEnd;
        if (block.timestamp < from) revert TooEarly(block.timestamp, from);

        uint96 lost = 0;
        if (silent) {
            _checkReveals(reveals, round, revealers, points);
            uint96 each = _penalty(s) / uint96(count);
            lost = each * uint96(count);
            s.purse.bond -= lost;
            for (uint256 i = 0; i < count; ++i) {
                _members[project][revealers[i]].credit += each;
            }
        }
        _failRound(project, s, clock, lost, "");
    }

    /// @inheritdoc IMarketplace
    function deactivate(bytes32 project, address trainer) external {
        Project storage s = _running(project);
        if (_members[project][trainer].membership != Membership.Active) revert NotTrainer(trainer);
        uint32 round = s.clock.round;
        uint32 last = _round(_tickets[project][trainer].word);
        // The current round is still open to the trainer, so it is not missed yet.
        uint32 missed = last < round ? round - 1 - last : 0;
        uint16 patience = s.params.patience;
        if (missed <= patience) revert TooFewMissed(trainer, missed, patience);
        _dropActive(project, s, trainer);
    }

    /// @inheritdoc IMarketplace
    function withdraw(bytes32 project) external nonReentrant returns (uint128 amount) {
        Project storage s = _known(project);
        amount = _members[project][msg.sender].credit;
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        _members[project][msg.sender].credit = 0;
        emit Withdrawn(project, msg.sender, amount);

        IERC20(s.params.token).safeTransfer(msg.sender, amount);
    }

    // ------------------------------------------------------------------- views

    /// @inheritdoc IMarketplace
    function paramsOf(bytes32 project) external view returns (Params memory) {
        return _known(project).params;
    }

    /// @inheritdoc IMarketplace
    function stateOf(bytes32 project) external view returns (State memory) {
        Project storage s = _known(project);
        Clock memory clock = s.clock;
        return State({
            status: clock.status,
            round: clock.round,
            settledRounds: s.purse.settledRounds,
            failures: clock.failures,
            opensAt: clock.opensAt,
            commitEnd: clock.commitEnd,
            revealEnd: clock.revealEnd,
            settleEnd: clock.settleEnd,
            active: clock.active,
            commits: clock.commits,
            reveals: uint8(_count(s.reveals)),
            revealHash: bytes31(s.reveals),
            sponsor: s.sponsor,
            escrow: s.purse.escrow,
            bond: s.purse.bond
        });
    }

    /// @inheritdoc IMarketplace
    function accountOf(bytes32 project, address account) external view returns (Account memory) {
        Member memory m = _members[project][account];
        bytes32 ticket = _tickets[project][account].word;
        return Account({
            stake: m.stake,
            credit: m.credit,
            strikes: m.strikes,
            membership: m.membership,
            index: m.index,
            lastCommit: _round(ticket),
            revealed: ticket != 0 && bytes28(ticket) == 0,
            exitAt: _exitAt[project][account],
            spentMilli: _spentMilli[project][account]
        });
    }

    /// @inheritdoc IMarketplace
    function trainers(bytes32 project) external view returns (address[] memory) {
        return _known(project).active;
    }

    /// @inheritdoc IMarketplace
    function commitDigest(
        bytes32 project,
        uint32 round,
        address trainer,
        bytes32[3] calldata point,
        bytes32 cid
    ) public pure returns (bytes28) {
        return bytes28(keccak256(abi.encode(project, round, trainer, point, cid)));
    }

    // ------------------------------------------------------------------ checks

    function _known(bytes32 project) private view returns (Project storage s) {
        s = _projects[project];
        if (s.clock.status == Status.None) revert UnknownProject(project);
    }

    function _running(bytes32 project) private view returns (Project storage s) {
        s = _projects[project];
        Status status = s.clock.status;
        if (status != Status.Running) _refuseStatus(status, project);
    }

    function _refuseStatus(Status status, bytes32 project) private pure {
        if (status == Status.None) revert UnknownProject(project);
        revert WrongStatus(status);
    }

    function _refuseReveal(bytes32 ticket, uint32 round, bytes28 digest) private view {
        if (_round(ticket) != round) revert NothingCommitted(msg.sender, round);
        if (bytes28(ticket) == 0) revert AlreadyRevealed(msg.sender, round);
        revert RevealMismatch(bytes28(ticket), digest);
    }

    /// @dev `mask` is `PLAIN` for a commit that says no spending, else `ANY`.
    function _inCommitWindow(bytes32 project, uint32 round, uint256 mask) private view {
        Clock storage clock = _projects[project].clock;
        uint256 word;
        assembly ("memory-safe") {
            word := sload(clock.slot)
        }
        if (word & mask != uint256(Status.Running)) {
            if (clock.status != Status.Running) _refuseStatus(clock.status, project);
            revert SpendingMissing(_projects[project].params.epsilonMilli);
        }
        if (round != clock.round) revert WrongRound(round, clock.round);
        if (block.timestamp < clock.opensAt) revert TooEarly(block.timestamp, clock.opensAt);
        if (block.timestamp >= clock.commitEnd) revert TooLate(block.timestamp, clock.commitEnd);
    }

    /// @dev Passes over a commit that already stands as it is.
    function _commitFor(bytes32 project, uint32 round, address trainer, bytes28 digest) private {
        Ticket storage ticket = _tickets[project][trainer];
        bytes32 last = ticket.word;
        if (last == 0) revert NotTrainer(trainer);
        bytes32 next = _ticket(round, digest);
        if (next == last) return;
        if (_round(last) == round) revert AlreadyCommitted(trainer, round);
        ticket.word = next;
        emit Committed(project, trainer, round);
    }

    function _checkParams(Params calldata p) private view {
        if (p.token.code.length == 0) revert BadParam("token");
        if (p.rule.code.length == 0) revert BadParam("rule");
        if (p.verifier.code.length == 0) revert BadParam("verifier");
        if (p.aggregator == address(0)) revert BadParam("aggregator");
        if (p.slashSink == address(0) || p.slashSink == msg.sender || p.slashSink == p.aggregator) {
            revert BadParam("slashSink");
        }
        if (p.rounds == 0) revert BadParam("rounds");
        if (p.capacity == 0 || p.capacity > MAX_CAPACITY) revert BadParam("capacity");
        if (p.minUpdates == 0 || p.minUpdates > p.capacity) revert BadParam("minUpdates");
        if (p.maxFailures == 0) revert BadParam("maxFailures");
        if (p.stepBits > 40) revert BadParam("stepBits");
        if (p.dimension == 0) revert BadParam("dimension");
        if (p.clipNorm == 0) revert BadParam("clipNorm");
        if (p.stake > type(uint88).max) revert BadParam("stake");
        if (p.bond > type(uint88).max) revert BadParam("bond");
        if (p.bondPenalty > p.bond) revert BadParam("bondPenalty");
        if (p.joinWindow > MAX_WINDOW) revert BadParam("joinWindow");
        if (p.commitWindow == 0 || p.commitWindow > MAX_WINDOW) revert BadParam("commitWindow");
        if (p.revealWindow == 0 || p.revealWindow > MAX_WINDOW) revert BadParam("revealWindow");
        if (p.settleWindow == 0 || p.settleWindow > MAX_WINDOW) revert BadParam("settleWindow");
        if (p.exclusiveWindow > p.settleWindow) revert BadParam("exclusiveWindow");
        uint256 windows = uint256(p.commitWindow) + p.revealWindow + p.settleWindow;
        if (p.unbondingDelay < windows || p.unbondingDelay > 4 * MAX_WINDOW) {
            revert BadParam("unbondingDelay");
        }
        if (p.root != address(0)) {
            if (p.root == p.aggregator || p.root == p.slashSink) revert BadParam("root");
            if (p.capacity == MAX_CAPACITY) revert BadParam("capacity");
            if (p.minUpdates == 1) revert BadParam("minUpdates");
        }
        for (uint256 k = 0; k < 16; ++k) {
            if (_slashBps(p.slashBps, k) > 10_000) revert BadParam("slashBps");
        }
    }

    function _checkSettler(
        Params storage p,
        Clock memory clock,
        uint32 round,
        uint256 reveals,
        uint256 exclusions
    ) private view {
        if (round != clock.round) revert WrongRound(round, clock.round);
        bool complete = clock.commits != 0 && reveals == clock.commits;
        if (block.timestamp < clock.revealEnd && !complete) {
            revert TooEarly(block.timestamp, clock.revealEnd);
        }
        if (block.timestamp >= clock.settleEnd) revert TooLate(block.timestamp, clock.settleEnd);
        if (msg.sender == p.slashSink) revert SinkMayNotSettle(msg.sender);
        if (msg.sender != p.aggregator) {
            if (block.timestamp < clock.revealEnd + p.exclusiveWindow) {
                revert NotAggregator(msg.sender);
            }
            if (exclusions != 0) revert ExclusionNotAllowed(msg.sender);
        }
    }

    function _checkReveals(
        bytes32 reveals,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points
    ) private pure {
        uint256 n = revealers.length;
        if (n != _count(reveals)) revert LengthMismatch(_count(reveals), n);
        if (points.length != n * POINT_BYTES) {
            revert LengthMismatch(n * POINT_BYTES, points.length);
        }
        bytes32 hash = _seed(round);
        uint256 at;
        assembly ("memory-safe") {
            at := points.offset
        }
        for (uint256 i = 0; i < n; ++i) {
            hash = _fold(hash, revealers[i], at + i * POINT_BYTES);
        }
        if (bytes31(hash) != bytes31(reveals)) {
            revert RevealListMismatch(bytes31(reveals), bytes31(hash));
        }
    }

    /// @dev The points of the updates that are not excluded.
    function _included(bytes calldata points, bytes calldata exclusions)
        private
        pure
        returns (bytes memory included)
    {
        included = points;
        if (exclusions.length == 0) return included;
        uint256 kept = 0;
        for (uint256 i = 0; i < exclusions.length; ++i) {
            if (exclusions[i] != 0) continue;
            if (kept != i) {
                for (uint256 word = 0; word < POINT_BYTES; word += 32) {
                    bytes32 value = bytes32(points[i * POINT_BYTES + word:]);
                    assembly ("memory-safe") {
                        mstore(add(add(included, 32), add(mul(kept, 96), word)), value)
                    }
                }
            }
            ++kept;
        }
        assembly ("memory-safe") {
            mstore(included, mul(kept, 96))
        }
    }

    /// @dev Points are compared by the low 32 bytes of x, so that a point and its negative are
    /// duplicates too.
    function _checkDuplicates(bytes memory points, uint256 n) private pure {
        uint256 first = 0;
        uint256 second = 0;
        assembly ("memory-safe") {
            let start := add(points, 48)
            let end := add(start, mul(n, 96))
            for { let i := start } lt(i, end) { i := add(i, 96) } {
                let x := mload(i)
                let j := start
                for {} xor(mload(j), x) {} { j := add(j, 96) }
                if lt(j, i) {
                    first := div(sub(j, start), 96)
                    second := div(sub(i, start), 96)
                }
            }
        }
        if (second != 0) revert DuplicatePoint(first, second);
    }

    function _checkGram(
        bytes32 project,
        uint32 round,
        Params storage p,
        bytes memory points,
        bytes calldata gram,
        bytes calldata proof
    ) private view {
        if (!IGramVerifier(p.verifier).verify(project, round, p.aggregator, points, gram, proof)) {
            revert GramRejected();
        }
    }

    /// @dev Position of the root's update among the included ones, n where it is not one of them.
    function _row(address root, address[] calldata revealers, bytes calldata exclusions, uint256 n)
        private
        pure
        returns (uint256 row)
    {
        for (uint256 i = 0; i < revealers.length; ++i) {
            bool out = exclusions.length != 0 && exclusions[i] != 0;
            if (revealers[i] == root) return out ? n : row;
            if (!out) ++row;
        }
    }

    // ------------------------------------------------------------------- money

    /// @dev Scores the included updates, pays and slashes; returns a record a reveal.
    function _pay(
        bytes32 project,
        Project storage s,
        address[] calldata revealers,
        bytes calldata exclusions,
        bytes calldata gram,
        uint256 n,
        uint256 root
    ) private returns (bytes memory records) {
        Params storage p = s.params;
        uint96 reward = p.reward;
        uint256[] memory scores = IScoringRule(p.rule).score(p.ruleParams, n, root, gram, reward);
        if (scores.length != n) revert RuleMisbehaved(p.rule);
        if (root != n && scores[root] & ~OUTLIER != 0) revert RuleMisbehaved(p.rule);

        uint256 paid = 0;
        uint256 weight = 0;
        uint96 slashed = 0;
        records = new bytes(32 * revealers.length);
        mapping(address => Member) storage members = _members[project];
        uint256 k = 0;
        for (uint256 i = 0; i < revealers.length; ++i) {
            Member storage m = members[revealers[i]];
            uint256 record;
            if (exclusions.length != 0 && exclusions[i] != 0) {
                record = uint256(m.strikes) << 224 | uint256(uint8(exclusions[i])) << 232;
            } else {
                record = scores[k];
                if (record == OUTLIER) {
                    if (k != root) {
                        (uint88 loss, uint8 strikes) = _slash(p, m);
                        slashed += loss;
                        record |= uint256(loss) << 96 | uint256(strikes) << 224;
                        if (m.stake == 0 && m.membership == Membership.Active) {
                            record |= uint256(1) << 248;
                            _dropActive(project, s, revealers[i]);
                        }
                    }
                } else {
                    if (record & ~SCORE_BITS != 0) revert RuleMisbehaved(p.rule);
                    uint96 share = uint96(record);
                    // 128 of 96 bits, and 128 of 32
                    unchecked {
                        paid += share;
                        weight += record >> 192;
                    }
                    uint8 strikes = m.strikes;
                    if (strikes != 0) {
                        m.strikes = --strikes;
                        record |= uint256(strikes) << 224;
                    }
                    m.credit += share;
                }
                unchecked {
                    ++k;
                }
            }
            assembly ("memory-safe") {
                mstore(add(add(records, 32), mul(i, 32)), record)
            }
        }
        if (paid > reward || weight != ONE) revert RuleMisbehaved(p.rule);
        uint96 fee = p.fee;
        s.purse.escrow -= uint96(paid) + fee;
        if (fee != 0) members[msg.sender].credit += fee;
        if (slashed != 0) members[p.slashSink].credit += slashed;
    }

    function _slash(Params storage p, Member storage m)
        private
        returns (uint88 loss, uint8 strikes)
    {
        strikes = m.strikes;
        if (strikes != type(uint8).max) ++strikes;
        uint256 entry = strikes > 16 ? 15 : strikes - 1;
        uint256 due = uint256(p.stake) * _slashBps(p.slashBps, entry) / 10_000;
        uint88 stake = m.stake;
        loss = due < stake ? uint88(due) : stake;
        m.stake = stake - loss;
        m.strikes = strikes;
    }

    /// @dev What the bond loses by a round that its aggregator let fail.
    function _penalty(Project storage s) private view returns (uint96) {
        uint96 bond = s.purse.bond;
        uint96 penalty = s.params.bondPenalty;
        return penalty < bond ? penalty : bond;
    }

    function _slashBps(bytes32 schedule, uint256 k) private pure returns (uint256) {
        return (uint256(schedule) >> (240 - 16 * k)) & 0xffff;
    }

    function _releaseStake(bytes32 project, address trainer) private {
        Member storage m = _members[project][trainer];
        uint88 stake = m.stake;
        m.stake = 0;
        m.credit += stake;
        m.membership = Membership.None;
        delete _exitAt[project][trainer];
        emit Left(project, trainer, stake);
    }

    /// @dev Takes exactly `amount` from the caller.
    function _pull(address token, uint256 amount) private {
        if (amount == 0) return;
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert TokenTookFee(amount, received);
    }

    // ------------------------------------------------------------------ rounds

    function _open(Clock memory clock, Params storage p, uint256 opensAt) private view {
        clock.opensAt = uint40(opensAt);
        clock.commitEnd = clock.opensAt + p.commitWindow;
        clock.revealEnd = clock.commitEnd + p.revealWindow;
        clock.settleEnd = clock.revealEnd + p.settleWindow;
        clock.commits = 0;
        clock.departed = 0;
    }

    /// @dev What a round's running hash starts from; not zero, so that the first reveal does not pay
    /// for a fresh slot.
    function _seed(uint32 round) private pure returns (bytes32) {
        return bytes32(uint256(round) << 8);
    }

    /// @dev keccak256(hash ‖ trainer ‖ point) in 31 bytes, for the point of 96 bytes that begins at
    /// `at` in the calldata.
    function _fold(bytes32 hash, address trainer, uint256 at) private pure returns (bytes32 next) {
        assembly ("memory-safe") {
            let scratch := mload(0x40)
            mstore(scratch, hash)
            mstore(add(scratch, 31), shl(96, trainer))
            calldatacopy(add(scratch, 51), at, 96)
            next := and(keccak256(scratch, 147), not(0xff))
        }
    }

    function _count(bytes32 reveals) private pure returns (uint256) {
        return uint8(uint256(reveals));
    }

    function _ticket(uint32 round, bytes28 digest) private pure returns (bytes32) {
        return bytes32(digest) | bytes32(uint256(round));
    }

    function _round(bytes32 ticket) private pure returns (uint32) {
        return uint32(uint256(ticket));
    }

    function _nextRound(Project storage s, Clock memory clock) private {
        ++clock.round;
        _open(clock, s.params, block.timestamp);
        s.clock = clock;
        s.reveals = _seed(clock.round);
    }

    function _failRound(
        bytes32 project,
        Project storage s,
        Clock memory clock,
        uint96 lost,
        bytes memory exclusions
    ) private {
        emit RoundFailed(project, clock.round, lost, exclusions);
        if (++clock.failures == s.params.maxFailures) _end(project, s, clock, Status.Halted);
        else _nextRound(s, clock);
    }

    function _end(bytes32 project, Project storage s, Clock memory clock, Status status) private {
        clock.status = status;
        s.clock = clock;
        uint96 bond = s.purse.bond;
        s.purse.bond = 0;
        _members[project][s.params.aggregator].credit += bond;
        emit ProjectEnded(project, status);
    }

    function _dropActive(bytes32 project, Project storage s, address trainer) private {
        Member storage m = _members[project][trainer];
        m.membership = Membership.Inactive;
        _removeActive(project, s, trainer, m.index);
    }

    /// @dev Fills the gap with the last active trainer.
    function _removeActive(bytes32 project, Project storage s, address trainer, uint16 index)
        private
    {
        address last = s.active[s.active.length - 1];
        s.active[index] = last;
        s.active.pop();
        _members[project][last].index = index;
        Clock storage clock = s.clock;
        bytes32 ticket = _tickets[project][trainer].word;
        // A reveal stands after its trainer went, so its commit must be counted, too: else the round
        // would be complete before all the others have revealed.
        if (_round(ticket) == clock.round && bytes28(ticket) == 0 && clock.commits == 0) {
            ++clock.departed;
        }
        delete _tickets[project][trainer];
        --clock.active;
        emit Deactivated(project, trainer);
    }
}
